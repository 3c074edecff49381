//go:build !slim

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
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
)

// How long a child may take to be ready, and to end after SIGTERM.
const (
	childReady = 30 * time.Second
	childEnd   = 20 * time.Second
)

// child is a process of the demo. It dies with us, gets no Ctrl-C of its own, and writes what it logs to a file.
type child struct {
	name string
	cmd  *exec.Cmd
	out  io.ReadCloser
	log  string
	done chan struct{} // closed when it has ended; err is valid then
	err  error
}

// startChild starts a program. ctx does not end it: stop does, in the demo's order.
func startChild(ctx context.Context, name, dir, program string, args ...string) (*child, error) {
	log := filepath.Join(dir, name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // the child has its own
	c := &child{name: name, log: log, done: make(chan struct{})}
	c.cmd = exec.CommandContext(context.WithoutCancel(ctx), program, args...) //nolint:gosec // ourselves or redis-server
	c.cmd.Stderr = f
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	c.cmd.Env = childEnvironment()
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.out, c.cmd.Stdout = r, w
	if err := c.start(w); err != nil {
		return nil, errors.Join(&job.Error{Op: "start " + name, Kind: job.Missing, Err: err}, r.Close())
	}
	return c, nil
}

// childEnvironment is ours without what would configure a daemon: the demo's says everything in its file.
func childEnvironment() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "VMFERRY_") && !strings.HasPrefix(e, "NOTIFY_SOCKET=") {
			env = append(env, e)
		}
	}
	return env
}

// start starts the process and waits for its end beside. Linux sends the death signal when the starting thread ends, so
// that thread is one that lasts as long as the child does: the waiting one.
func (c *child) start(w *os.File) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := c.cmd.Start()
		_ = w.Close() // the child has its own end
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
		}
		close(c.done)
	}()
	return <-started
}

// ready reads the one JSON object that the child writes when it is ready.
func (c *child) ready(ctx context.Context, into any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, childReady,
		job.Errorf("", job.Timeout, "", "it was not ready after %v", childReady))
	defer cancel()
	got := make(chan error, 1)
	go func() {
		got <- json.NewDecoder(c.out).Decode(into)
		_, _ = io.Copy(io.Discard, c.out) // whatever else it says; ends with the child
	}()
	select {
	case err := <-got:
		if err == nil {
			return nil
		}
		select {
		case <-c.done:
		case <-ctx.Done():
		}
		return c.failed()
	case <-ctx.Done():
		return job.Errorf("start "+c.name, job.KindOf(context.Cause(ctx)), "See "+c.log, "%w", context.Cause(ctx))
	}
}

// failed is why a child ended by itself, with the end of its log.
func (c *child) failed() error {
	text, err := os.ReadFile(c.log)
	if err != nil {
		text = nil
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return job.Errorf("run "+c.name, job.Internal, "See "+c.log, "it ended: %s",
		clip(oneLine(strings.Join(lines[max(0, len(lines)-3):], " | ")), 600))
}

// stop asks the child to end, and makes it end if it does not. It may be called more than once.
func (c *child) stop() error {
	if c == nil {
		return nil
	}
	defer func() { _ = c.out.Close() }()      // nobody reads it any more
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // an error says that it has ended
	select {
	case <-c.done:
		return nil
	case <-time.After(childEnd):
	}
	_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // its group; an error says that it has ended
	<-c.done
	return fmt.Errorf("%s did not end by itself within %v", c.name, childEnd)
}

// redisServer is a redis-server on a unix socket that is started again when it dies.
type redisServer struct {
	program, dir, socket string
	said                 func(string)

	mu      sync.Mutex
	current *child
	ending  bool
	done    chan struct{}
}

func startRedis(ctx context.Context, program, dir string, said func(string)) (*redisServer, error) {
	r := &redisServer{program: program, dir: dir, socket: filepath.Join(dir, "redis.sock"), said: said,
		done: make(chan struct{})}
	if err := r.start(ctx); err != nil {
		return nil, err
	}
	go r.keep(ctx)
	return r, nil
}

func (r *redisServer) start(ctx context.Context) error {
	c, err := startChild(ctx, "redis", r.dir, r.program, "--port", "0", "--unixsocket", r.socket, "--unixsocketperm",
		"700",
		"--save", "", "--appendonly", "no", "--dir", r.dir, "--daemonize", "no", "--logfile",
		filepath.Join(r.dir, "redis-server.log"))
	if err != nil {
		return err
	}
	r.current = c
	return nil
}

// redisTries bounds how often a redis-server that cannot live is started again.
const redisTries = 20

// keep starts it again until stop.
func (r *redisServer) keep(ctx context.Context) {
	defer close(r.done)
	for try := 0; ; try++ {
		r.mu.Lock()
		c := r.current
		r.mu.Unlock()
		<-c.done
		r.mu.Lock()
		if r.ending {
			r.mu.Unlock()
			return
		}
		err := c.failed()
		if try < redisTries {
			err = r.start(ctx)
		}
		r.mu.Unlock()
		if err != nil {
			r.said("redis-server died and could not be started again: " + err.Error())
			return
		}
		r.said("redis-server died and was started again; it is filled anew within seconds")
	}
}

func (r *redisServer) stop() error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	r.ending = true
	c := r.current
	r.mu.Unlock()
	err := c.stop()
	<-r.done
	return err
}
