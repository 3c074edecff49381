// Package child runs programs that live no longer than this process.
//
//	start   in a process group of its own, so that a Ctrl-C is for this process alone; with a log file
//	wait    until the child is ready: a socket answers, a file is there, or a JSON object is on its standard output
//	end     with a signal, and with SIGKILL when that takes too long
//
// When this process dies, the kernel signals its children. Package child knows no VM, no job and no NBD.
package child

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
)

const (
	readyTime = 30 * time.Second     // most that a child may take to be ready
	pollEvery = 5 * time.Millisecond // between looks whether a child is ready
	tailLines = 3                    // of a log, in an error
	tailRunes = 600                  // likewise
)

// Command says what to start. Of Socket, File and Answer one may be set; with none the child is ready at once.
type Command struct {
	Name     string         // in errors
	Argv     []string       // program and arguments
	Env      []string       // nil: the environment of this process
	Log      string         // file to which standard error is appended, and standard output without Answer
	Socket   string         // ready when this unix socket answers
	File     string         // ready when this file is not empty: a pidfile
	Answer   any            // ready when standard output has held one JSON object, which goes into this pointer
	Grace    time.Duration  // from the signal of End to SIGKILL
	Orphaned syscall.Signal // sent to the child when this process dies; 0: SIGTERM
}

// Process is a child that was started. Several goroutines may use it.
type Process struct {
	Command
	cmd  *exec.Cmd
	out  *os.File      // read end of the pipe for Answer, or nil
	done chan struct{} // closed when the child has ended
}

// Start starts a child and returns when the child is ready, within 30 s. The end of ctx ends the wait, not the child:
// End does. A child that does not become ready is ended. A Socket or File of an earlier run is removed first.
//
// Kinds of errors: Missing if the program cannot be started, Internal if the child ends before it is ready, Timeout.
func Start(ctx context.Context, c Command) (*Process, error) {
	if c.Orphaned == 0 {
		c.Orphaned = syscall.SIGTERM
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), c.Argv[0], c.Argv[1:]...) //nolint:gosec // of the caller
	cmd.Env = c.Env
	p := &Process{Command: c, cmd: cmd, done: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: c.Orphaned}
	for _, stale := range []string{c.Socket, c.File} {
		_ = os.Remove(stale) // fails if there is none
	}
	if err := p.launch(); err != nil {
		return nil, err
	}
	if err := p.ready(ctx); err != nil {
		return nil, errors.Join(err, p.End(syscall.SIGTERM))
	}
	return p, nil
}

// launch gives the child its files and starts it.
func (p *Process) launch() error {
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if p.Answer != nil {
		r, w, err := os.Pipe()
		if err != nil {
			return err
		}
		defer func() { _ = w.Close() }() // likewise
		p.out, p.cmd.Stdout = r, w
	}
	started := make(chan error)
	go p.run(started)
	if err := <-started; err != nil {
		return &job.Error{Op: "start " + p.Name, Kind: job.Missing, Err: err}
	}
	return nil
}

// run starts the process and waits for its end. Linux sends the death signal when the thread that started the process
// ends, even if this process lives on. So the thread that starts the process waits for it, and lasts as long.
func (p *Process) run(started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	err := p.cmd.Start()
	started <- err
	if err == nil {
		_ = p.cmd.Wait() // ProcessState says how it ended
	}
	if p.out != nil {
		_ = p.out.Close() // ends the reading, also if a grandchild has the other end
	}
	close(p.done)
}

// ready waits until the child is ready.
func (p *Process) ready(ctx context.Context) error {
	switch {
	case p.Socket != "":
		return p.await(ctx, p.answers)
	case p.File != "":
		return p.await(ctx, func(context.Context) bool {
			info, err := os.Stat(p.File)
			return err == nil && info.Size() > 0
		})
	case p.Answer != nil:
		got := make(chan error, 1)
		go func() {
			got <- json.NewDecoder(p.out).Decode(p.Answer)
			_, _ = io.Copy(io.Discard, p.out) // a full pipe would stop the child
		}()
		return p.await(ctx, func(context.Context) bool {
			select {
			case err := <-got:
				return err == nil // otherwise the child has ended, or does not keep to the form
			default:
				return false
			}
		})
	default:
		return nil
	}
}

// answers says whether a process listens at the socket.
func (p *Process) answers(ctx context.Context) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", p.Socket)
	if err != nil {
		return false
	}
	_ = conn.Close() // it only showed that a process listens
	return true
}

// await looks again and again whether the child is ready.
func (p *Process) await(ctx context.Context, ready func(context.Context) bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTime,
		job.Errorf("", job.Timeout, "", "it was not ready after %v", readyTime))
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for !ready(ctx) {
		select {
		case <-tick.C:
		case <-p.done:
			return p.Failed()
		case <-ctx.Done():
			cause := context.Cause(ctx)
			return job.Errorf("start "+p.Name, job.KindOf(cause), "See "+p.Log, "%w", cause)
		}
	}
	return nil
}

// PID is the number of the process, and of its group.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the child has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Failed is the error of a child that ended by itself: how it ended, and the last lines of its log. Call it after Done.
func (p *Process) Failed() error {
	return job.Errorf("run "+p.Name, job.Internal, "See "+p.Log, "it ended (%v): %s", p.cmd.ProcessState, tail(p.Log))
}

// tail is the end of a log in one line; empty if the log cannot be read.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	last := strings.Join(lines[max(0, len(lines)-tailLines):], " | ")
	runes := []rune(strings.Join(strings.Fields(last), " "))
	return string(runes[:min(len(runes), tailRunes)])
}

// End sends a signal to the child alone and returns when the child has ended. After Grace the whole group gets SIGKILL,
// and an error says so. End may be called more than once; of a nil Process it does nothing.
func (p *Process) End(sig syscall.Signal) error {
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig) // fails only if the child has ended
	grace := time.NewTimer(p.Grace)
	defer grace.Stop()
	select {
	case <-p.done:
		return nil
	case <-grace.C:
	}
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // likewise
	<-p.done
	return job.Errorf("end "+p.Name, job.Timeout, "See "+p.Log, "it did not end within %v and was killed", p.Grace)
}
