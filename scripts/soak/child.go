package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// child is a process that can be killed and comes back as it was.
type child struct {
	name   string
	dir    string
	argv   []string
	socket string // it listens there when it is ready; "" for none
	cmd    *exec.Cmd
	done   chan struct{}
}

const (
	readyTime = 30 * time.Second
	endTime   = 15 * time.Second
	pollEvery = 5 * time.Millisecond
)

// start returns when the child answers at its socket.
func (c *child) start(ctx context.Context) error {
	if c.socket != "" {
		_ = os.Remove(c.socket) // of one that was killed
	}
	log, err := os.OpenFile(filepath.Join(c.dir, c.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()                                                // the child has its own
	c.cmd = exec.CommandContext(context.WithoutCancel(ctx), c.argv[0], c.argv[1:]...) //nolint:gosec // our own programs
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Dir = log, log, c.dir
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	c.done = done
	go func() {
		_ = c.cmd.Wait() // how it ended is of no interest: it was killed
		close(done)
	}()
	return until(ctx, readyTime, c.name+" is ready", func() bool { return c.socket == "" || answers(ctx, c.socket) })
}

func answers(ctx context.Context, socket string) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// signal ends it and returns when it is gone.
func (c *child) signal(sig syscall.Signal) {
	if c == nil || c.cmd == nil || c.cmd.Process == nil {
		return
	}
	_ = c.cmd.Process.Signal(sig) // fails only if it has ended
	select {
	case <-c.done:
	case <-time.After(endTime):
		say("%s did not end in %v", c.name, endTime)
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// until looks again and again whether something is so.
func until(ctx context.Context, patience time.Duration, what string, so func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !so() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, errors.Join(context.Cause(ctx), fmt.Errorf("not within %v", patience)))
		}
	}
	return nil
}
