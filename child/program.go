package child

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Program is a child that can be started again after it was killed. One goroutine at a time uses it.
type Program struct {
	Command
	process *Process // nil before the first start
}

// programGrace is from a signal to SIGKILL.
const programGrace = 15 * time.Second

// NewProgram is a program with its log in dir. If this process dies, the kernel kills the program. Fields of Command
// may be changed before the first Start.
func NewProgram(dir, name string, argv ...string) *Program {
	return &Program{Command: Command{
		Name: name, Argv: argv, Log: filepath.Join(dir, name+".log"), Grace: programGrace, Orphaned: syscall.SIGKILL,
	}}
}

// Environment is that of this process, without variables that configure a daemon: a child that is one is configured by
// its file alone.
func Environment() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "VMFERRY_") && !strings.HasPrefix(e, "NOTIFY_SOCKET=") {
			env = append(env, e)
		}
	}
	return env
}

// Start returns when the program is ready; see the function Start.
func (p *Program) Start(ctx context.Context) (err error) {
	p.process, err = Start(ctx, p.Command)
	return err
}

// End sends a signal to the program and returns when it is gone; see Process. Of a nil Program, and of one that was
// never started, it does nothing.
func (p *Program) End(sig syscall.Signal) error {
	if p == nil {
		return nil
	}
	return p.process.End(sig)
}

// Until asks so again and again until it returns true, at most for patience. what says what was waited for, in the
// error.
func Until(ctx context.Context, every, patience time.Duration, what string, so func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(every)
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
