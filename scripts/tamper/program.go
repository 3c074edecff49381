package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
)

const (
	readyTime = 30 * time.Second      // most that a program may take to answer a request
	endTime   = 15 * time.Second      // from a signal to SIGKILL
	pollEvery = 10 * time.Millisecond // of until
)

// program is a child that can be started again after it was killed.
type program struct {
	child.Command
	process *child.Process // nil before the first start
}

// newProgram is a program with its log in dir. If tamper dies, the kernel kills the program.
func newProgram(dir, name string, argv ...string) *program {
	return &program{Command: child.Command{
		Name: name, Argv: argv, Log: filepath.Join(dir, name+".log"), Grace: endTime,
		Orphaned: syscall.SIGKILL,
	}}
}

// start returns when the program is ready.
func (p *program) start(ctx context.Context) (err error) {
	p.process, err = child.Start(ctx, p.Command)
	return err
}

// signal ends the program and returns when it is gone.
func (p *program) signal(sig syscall.Signal) {
	if p == nil {
		return
	}
	if err := p.process.End(sig); err != nil {
		say("%v", err)
	}
}

// until waits until so returns true, at most for patience. what says what was waited for, in the error.
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
