package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
)

const (
	endTime    = 30 * time.Second
	tickLength = 10 * time.Millisecond // of /proc/PID/stat; Linux has it so on every machine that vmferry runs on
)

// daemon is the program that is measured.
type daemon struct {
	process *child.Process
	address string // host:port
	client  *http.Client
}

// startDaemon starts a daemon without a vCenter, which needs none for external jobs.
func startDaemon(ctx context.Context, o options, dir string) (*daemon, error) {
	config := filepath.Join(dir, "vmferry.yaml")
	text := fmt.Sprintf("listen: 127.0.0.1:0\nstate_dir: %s\nlimits: {external_jobs: %d}\nlog: {level: warn}\n",
		filepath.Join(dir, "state"), max(1, o.jobs))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	var ready struct {
		URL string `json:"url"`
	}
	p, err := child.Start(ctx, child.Command{
		Name: "vmferryd", Argv: []string{o.vmferryd, "serve", "--config", config, "-o", "json"},
		Log: filepath.Join(dir, "log"), Grace: endTime, Answer: &ready,
	})
	if err != nil {
		return nil, err
	}
	return &daemon{
		process: p, address: strings.TrimPrefix(ready.URL, "http://"),
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}},
	}, nil
}

func (d *daemon) end() error {
	d.client.CloseIdleConnections()
	return d.process.End(syscall.SIGTERM)
}

// cpu is the user and system time that the daemon has used.
func (d *daemon) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", d.process.PID()))
	if err != nil {
		return 0, err
	}
	return cpuOf(text)
}

// cpuOf reads the fields utime and stime. The program's name, in brackets, may hold spaces.
func cpuOf(stat []byte) (time.Duration, error) {
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const utime, stime = 11, 12 // after the name
	if len(fields) <= stime {
		return 0, fmt.Errorf("%q has too few fields", stat)
	}
	var sum time.Duration
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseInt(string(fields[i]), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n) * tickLength
	}
	return sum, nil
}

// quiet waits until the daemon does next to nothing: for the pace at which the journal gets external jobs, at most.
func (d *daemon) quiet(ctx context.Context) error {
	const most, share = 40, 50 // seconds; of a second
	for range most {
		before, err := d.cpu()
		if err != nil {
			return err
		}
		pause(ctx, time.Second)
		after, err := d.cpu()
		if err != nil || after-before <= time.Second/share {
			return err
		}
	}
	return ctx.Err()
}

// memory is the greatest resident memory that the daemon has had, in MiB.
func (d *daemon) memory() (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.process.PID()))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(line), "kB")), 64)
	return n / 1024, err
}
