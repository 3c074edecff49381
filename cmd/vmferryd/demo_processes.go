package main

import (
	"context"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
)

const (
	childEnd   = 20 * time.Second // between SIGTERM and SIGKILL
	redisTries = 20               // most times that a redis-server is started again
)

// program is a child of the demo, with its log in dir.
func program(dir, name string, argv ...string) child.Command {
	log := filepath.Join(dir, name+".log")
	return child.Command{Name: name, Argv: argv, Env: child.Environment(), Log: log, Grace: childEnd}
}

// redisServer is a redis-server on a unix socket. It is started again when it dies.
type redisServer struct {
	command child.Command
	say     func(string)

	mu      sync.Mutex
	current *child.Process
	ending  bool
	done    chan struct{}
}

func startRedis(ctx context.Context, path, dir string, say func(string)) (*redisServer, error) {
	socket := filepath.Join(dir, "redis.sock")
	r := &redisServer{say: say, done: make(chan struct{}), command: program(dir, "redis", path, "--port", "0",
		"--unixsocket", socket, "--unixsocketperm", "700", "--save", "", "--appendonly", "no", "--dir", dir,
		"--daemonize", "no", "--logfile", filepath.Join(dir, "redis-server.log"))}
	r.command.Socket = socket
	var err error
	if r.current, err = child.Start(ctx, r.command); err != nil {
		return nil, err
	}
	go r.keep(ctx)
	return r, nil
}

// keep starts it again when it dies, until stop.
func (r *redisServer) keep(ctx context.Context) {
	defer close(r.done)
	for try := 0; ; try++ {
		r.mu.Lock()
		c := r.current
		r.mu.Unlock()
		<-c.Done()
		r.mu.Lock()
		if r.ending {
			r.mu.Unlock()
			return
		}
		err := c.Failed()
		if try < redisTries {
			r.current, err = child.Start(ctx, r.command)
		}
		r.mu.Unlock()
		if err != nil {
			r.say("redis-server died and could not be started again: " + err.Error())
			return
		}
		r.say("redis-server died and was started again; the daemon fills it within seconds")
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
	err := c.End(syscall.SIGTERM)
	<-r.done
	return err
}
