package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vmferry/vmferry/child"
)

const (
	serverStop    = 3 * time.Second // between SIGTERM and SIGKILL
	longestSocket = 107             // bytes of its path, by the kernel
	ticksASecond  = 100             // of CPU times in /proc, on every Linux
)

// server is one nbdkit.
type server struct {
	*child.Process
	uri string
}

// startServer starts an nbdkit with its default threads and returns when it listens. args are its filters, plugin and
// parameters.
func startServer(ctx context.Context, dir, name string, tcp bool, args []string) (*server, error) {
	socket, pidfile := filepath.Join(dir, name), filepath.Join(dir, name+".pid")
	where, uri := []string{"-U", socket}, "nbd+unix:///?socket="+socket
	if tcp {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		where, uri = []string{"-i", "127.0.0.1", "-p", port}, "nbd://127.0.0.1:"+port
	} else if len(socket) > longestSocket {
		return nil, fmt.Errorf("the scratch folder's path is too long for a socket; choose a shorter -dir: %s", dir)
	}
	argv := append([]string{"nbdkit", "-f", "-P", pidfile}, where...)
	p, err := child.Start(ctx, child.Command{
		Name: "nbdkit " + name, Argv: append(argv, args...), Env: environment(),
		Log: filepath.Join(dir, name+".log"), File: pidfile, Grace: serverStop,
	})
	if err != nil {
		return nil, err
	}
	return &server{p, uri}, nil
}

// freePort finds a port without a listener. If another process takes the port before nbdkit does, nbdkit fails.
func freePort(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}

// cpu is the server's CPU seconds so far.
func (s *server) cpu() (float64, error) {
	select {
	case <-s.Done():
		return 0, s.Failed()
	default:
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.PID()))
	if err != nil {
		return 0, err
	}
	return statSeconds(string(text))
}

// statSeconds adds user and system time of a line of /proc/PID/stat. The program's name in the line can hold any bytes.
func statSeconds(line string) (float64, error) {
	const user, system = 11, 12 // fields after the name
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) <= system {
		return 0, fmt.Errorf("not a line of /proc/PID/stat: %q", line)
	}
	u, err := strconv.ParseInt(fields[user], 10, 64)
	s, err2 := strconv.ParseInt(fields[system], 10, 64)
	return float64(u+s) / ticksASecond, errors.Join(err, err2)
}
