package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
)

// frame is the screen at one moment, with the terminal's colour sequences.
type frame struct {
	title   string
	columns int
	text    string
}

const (
	disks   = 2
	waiting = time.Minute // for each thing that is waited for
	rows    = 14
)

// stage is everything that a session needs, in one folder.
type stage struct {
	dir, program, socket string
	daemon               *child.Program
}

// session runs a job in tmux and takes the frames.
func session(ctx context.Context, program string, data int64) (frames []frame, err error) {
	dir, err := os.MkdirTemp("", "vfp") // short, as sockets need
	if err != nil {
		return nil, err
	}
	s := &stage{dir: dir, program: program, socket: filepath.Join(dir, "tmux")}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	vcenter, err := s.vCenter(ctx, data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, vcenter.End(syscall.SIGTERM)) }()
	if err := s.daemon.Start(ctx); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.daemon.End(syscall.SIGTERM)) }()
	defer func() { _ = s.tmux(ctx, "kill-server") }() // it may have ended
	err = s.tmux(ctx, "-f", "/dev/null", "new-session", "-d", "-x", "200", "-y", strconv.Itoa(rows), "bash", "--norc")
	if err != nil {
		return nil, err
	}
	run := "vmferry run web --verify full --bandwidth " + strconv.FormatInt(data/8, 10)
	if err := s.tmux(ctx, "send-keys", "PS1='$ '; clear; "+run, "Enter"); err != nil {
		return nil, err
	}
	for _, step := range []struct {
		title   string
		columns int
		do      func() error
		until   *regexp.Regexp
	}{
		{"200 columns", 200, nil, regexp.MustCompile(`(?m)\[#+\.*\] +[1-9][0-9]\.\d%.*eta`)},
		{"80 columns: the same terminal, narrower", 80, nil, regexp.MustCompile(`(?m)^.{60,80}eta \d+s$`)},
		{"40 columns", 40, nil, regexp.MustCompile(`(?m)^Hard.{30,36}$`)},
		{
			"100 columns, and the daemon is killed", 100, func() error { return s.daemon.End(syscall.SIGKILL) },
			regexp.MustCompile(`no answer from the daemon for [1-9]`),
		},
		{
			"the daemon is back", 100, func() error { return s.daemon.Start(ctx) },
			regexp.MustCompile(`(?s)the daemon is back after.*\[#+\.*\] +[1-9][0-9.]*%[^\n]*eta`),
		},
		{"the end", 100, nil, regexp.MustCompile(`(?m)completed  100\.0%  .* moved`)},
	} {
		if err := s.tmux(ctx, "resize-window", "-x", strconv.Itoa(step.columns), "-y", strconv.Itoa(rows)); err != nil {
			return nil, err
		}
		if step.do != nil {
			if err := step.do(); err != nil {
				return nil, err
			}
		}
		f := frame{title: step.title, columns: step.columns}
		if err := s.screen(ctx, &f, step.until); err != nil {
			return nil, fmt.Errorf("%s: %w", step.title, err)
		}
		frames = append(frames, f)
	}
	return frames, nil
}

// vCenter starts the rehearsal vCenter over disks that hold data bytes each, and configures the daemon for it.
func (s *stage) vCenter(ctx context.Context, data int64) (*child.Program, error) {
	args := []string{s.program, "sim", "vcenter", "--vm", "web", "--in-place", "-o", "json"}
	for i := range disks {
		image := filepath.Join(s.dir, fmt.Sprintf("%c.raw", 'a'+i))
		if err := fill(image, data); err != nil {
			return nil, err
		}
		args = append(args, "--disk", image)
	}
	var ready struct {
		Config string `json:"config"`
	}
	vcenter := child.NewProgram(s.dir, "vcenter", args...)
	vcenter.Env, vcenter.Answer = s.env(), &ready
	if err := vcenter.Start(ctx); err != nil {
		return nil, err
	}
	config := filepath.Join(s.dir, "vmferry.yaml")
	s.daemon = child.NewProgram(s.dir, "daemon", s.program, "serve", "--config", config)
	s.daemon.Env, s.daemon.Socket = s.env(), filepath.Join(s.dir, "s")
	if err := os.WriteFile(config, []byte(ready.Config), 0o600); err != nil {
		return nil, errors.Join(err, vcenter.End(syscall.SIGTERM))
	}
	return vcenter, nil
}

// fill makes a disk of twice as many bytes, whose first half holds something.
func fill(path string, data int64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	block := []byte(strings.Repeat("vmferry ", 128<<10))
	for off := int64(0); off < data && err == nil; off += int64(len(block)) {
		_, err = f.WriteAt(block[:min(int64(len(block)), data-off)], off)
	}
	return errors.Join(err, f.Truncate(2*data), f.Close())
}

func (s *stage) env() []string {
	return append(os.Environ(), "PATH="+filepath.Dir(s.program)+":"+os.Getenv("PATH"), "TERM=xterm-256color",
		"LANG=C.UTF-8", "CI=", "VMFERRY_SERVER=unix:"+s.dir+"/s", "VMFERRY_LISTEN=unix:"+s.dir+"/s",
		"VMFERRY_STATE_DIR="+s.dir+"/state")
}

func (s *stage) tmux(ctx context.Context, args ...string) error {
	_, err := s.ask(ctx, args...)
	return err
}

func (s *stage) ask(ctx context.Context, args ...string) (string, error) {
	all := append([]string{"-S", s.socket}, args...)
	c := exec.CommandContext(ctx, "tmux", all...) //nolint:gosec // our own arguments
	c.Env = s.env()
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("tmux %s: %w: %s", args[0], err, out)
	}
	return string(out), nil
}

// screen waits until the screen shows what want finds in it, in a whole picture, and takes it.
func (s *stage) screen(ctx context.Context, f *frame, want *regexp.Regexp) error {
	var last error
	err := child.Until(ctx, 200*time.Millisecond, waiting, "look at the screen", func() bool {
		last = s.look(ctx, f, want)
		return last == nil
	})
	if err != nil {
		return errors.Join(err, last)
	}
	return nil
}

// look takes the screen, if it shows what want finds in it, in a whole picture.
func (s *stage) look(ctx context.Context, f *frame, want *regexp.Regexp) (err error) {
	if f.text, err = s.ask(ctx, "capture-pane", "-p", "-e"); err != nil {
		return err
	}
	if plain := colours.ReplaceAllString(f.text, ""); !want.MatchString(plain) {
		return fmt.Errorf("the screen does not show %s:\n%s", want, plain)
	}
	return f.check()
}

var colours = regexp.MustCompile(`\x1b\[[0-9;]*m`)

// check finds broken pictures: every disk must be there exactly once, and one headline of the job.
func (f frame) check() error {
	plain := colours.ReplaceAllString(f.text, "")
	bars, heads := 0, 0
	for line := range strings.Lines(plain) {
		if strings.Contains(line, "[") && strings.Contains(line, "]") && strings.Contains(line, "%") {
			bars++
		}
		if strings.HasPrefix(line, "web  ") {
			heads++
		}
	}
	if bars != disks || heads != 1 {
		return fmt.Errorf("%s: %d bars and %d headlines, want %d and 1:\n%s", f.title, bars, heads, disks, plain)
	}
	return nil
}
