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
	readyTime = 30 * time.Second
	endTime   = 15 * time.Second
	pollEvery = 5 * time.Millisecond
)

// program is a program that can be killed and comes back as it was.
type program struct {
	child.Command
	process *child.Process // nil before the first start
}

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
