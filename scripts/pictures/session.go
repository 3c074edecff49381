package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
	disks   int // bars that must be on it
}

const (
	disks   = 2
	waiting = time.Minute // for each thing that is waited for
	rows    = 14
)

// stage is everything that a session needs, in one folder.
type stage struct {
	dir, program, socket string
	config               string
	daemon               *exec.Cmd
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
	defer stop(vcenter)
	if err := s.serve(ctx); err != nil {
		return nil, err
	}
	defer func() { stop(s.daemon) }()
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
		disks   int
	}{
		{"200 columns", 200, nil, regexp.MustCompile(`(?m)\[#+\.*\] +[1-9][0-9]\.\d%.*eta`), disks},
		{"80 columns: the same terminal, narrower", 80, nil, regexp.MustCompile(`(?m)^.{60,80}eta \d+s$`), disks},
		{"40 columns", 40, nil, regexp.MustCompile(`(?m)^Hard.{30,36}$`), disks},
		{
			"100 columns, and the daemon is killed", 100, s.kill,
			regexp.MustCompile(`no answer from the daemon for [1-9]`), disks,
		},
		{
			"the daemon is back", 100, func() error { return s.serve(ctx) },
			regexp.MustCompile(`(?s)the daemon is back after.*\[#+\.*\] +[1-9][0-9.]*%[^\n]*eta`), disks,
		},
		{"the end", 100, nil, regexp.MustCompile(`(?m)completed  100\.0%  .* moved`), disks},
	} {
		if err := s.tmux(ctx, "resize-window", "-x", strconv.Itoa(step.columns), "-y", strconv.Itoa(rows)); err != nil {
			return nil, err
		}
		if step.do != nil {
			if err := step.do(); err != nil {
				return nil, err
			}
		}
		f := frame{title: step.title, columns: step.columns, disks: step.disks}
		if err := s.screen(ctx, &f, step.until); err != nil {
			return nil, fmt.Errorf("%s: %w", step.title, err)
		}
		frames = append(frames, f)
	}
	return frames, nil
}

// vCenter starts the rehearsal vCenter over disks that hold data bytes each.
func (s *stage) vCenter(ctx context.Context, data int64) (*exec.Cmd, error) {
	args := []string{"sim", "vcenter", "--vm", "web", "--in-place", "-o", "json"}
	for i := range disks {
		image := filepath.Join(s.dir, fmt.Sprintf("%c.raw", 'a'+i))
		if err := fill(image, data); err != nil {
			return nil, err
		}
		args = append(args, "--disk", image)
	}
	out := filepath.Join(s.dir, "sim.json")
	c, err := s.start(ctx, out, args...)
	if err != nil {
		return nil, err
	}
	var ready struct {
		Config string `json:"config"`
	}
	err = until(ctx, "start the rehearsal vCenter", func() error {
		b, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		return json.Unmarshal(b, &ready)
	})
	if err != nil {
		stop(c)
		return nil, err
	}
	s.config = filepath.Join(s.dir, "vmferry.yaml")
	return c, os.WriteFile(s.config, []byte(ready.Config), 0o600)
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

func (s *stage) serve(ctx context.Context) (err error) {
	s.daemon, err = s.start(ctx, filepath.Join(s.dir, "daemon.out"), "serve", "--config", s.config)
	if err != nil {
		return err
	}
	return until(ctx, "start the daemon", func() error {
		c := exec.CommandContext(ctx, s.program, "get", "jobs") //nolint:gosec // the program under test
		c.Env = s.env()
		return c.Run()
	})
}

func (s *stage) kill() error {
	err := s.daemon.Process.Kill()
	_ = s.daemon.Wait() // it was killed
	return err
}

func (s *stage) env() []string {
	return append(os.Environ(), "PATH="+filepath.Dir(s.program)+":"+os.Getenv("PATH"), "TERM=xterm-256color",
		"LANG=C.UTF-8", "CI=", "VMFERRY_SERVER=unix:"+s.dir+"/s", "VMFERRY_LISTEN=unix:"+s.dir+"/s",
		"VMFERRY_STATE_DIR="+s.dir+"/state")
}

// start starts the program, with its data in a file.
func (s *stage) start(ctx context.Context, out string, args ...string) (*exec.Cmd, error) {
	f, err := os.Create(out)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()                  // the child has its own
	c := exec.CommandContext(ctx, s.program, args...) //nolint:gosec // the program under test
	c.Env, c.Stdout, c.Stderr = s.env(), f, io.Discard
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c, c.Start()
}

func stop(c *exec.Cmd) {
	_ = c.Process.Signal(syscall.SIGTERM) // it may have ended
	_ = c.Wait()
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
	return until(ctx, "look at the screen", func() (err error) {
		if f.text, err = s.ask(ctx, "capture-pane", "-p", "-e"); err != nil {
			return err
		}
		if plain := colours.ReplaceAllString(f.text, ""); !want.MatchString(plain) {
			return fmt.Errorf("the screen does not show %s:\n%s", want, plain)
		}
		return f.check()
	})
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
	if bars != f.disks || heads != 1 {
		return fmt.Errorf("%s: %d bars and %d headlines, want %d and 1:\n%s", f.title, bars, heads, f.disks, plain)
	}
	return nil
}

// until tries f until it succeeds. The error is the last one of f.
func until(ctx context.Context, what string, f func() error) error {
	var last error
	err := child.Until(ctx, 200*time.Millisecond, waiting, what, func() bool { last = f(); return last == nil })
	if err == nil {
		return nil
	}
	return errors.Join(err, last)
}
