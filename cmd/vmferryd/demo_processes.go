package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
)

const (
	childEnd   = 20 * time.Second // between SIGTERM and SIGKILL
	redisTries = 20               // how often a redis-server that cannot live is started again
)

// program is a child of the demo, with its log in dir.
func program(dir, name string, argv ...string) child.Command {
	return child.Command{
		Name: name, Argv: argv, Env: childEnvironment(), Log: filepath.Join(dir, name+".log"),
		Grace: childEnd,
	}
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

// redisServer is a redis-server on a unix socket that is started again when it dies.
type redisServer struct {
	command child.Command
	said    func(string)

	mu      sync.Mutex
	current *child.Process
	ending  bool
	done    chan struct{}
}

func startRedis(ctx context.Context, path, dir string, said func(string)) (*redisServer, error) {
	socket := filepath.Join(dir, "redis.sock")
	r := &redisServer{said: said, done: make(chan struct{}), command: program(dir, "redis", path, "--port", "0",
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

// keep starts it again until stop.
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
	err := c.End(syscall.SIGTERM)
	<-r.done
	return err
}
