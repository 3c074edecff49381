package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	serverStart   = 30 * time.Second
	serverPoll    = 5 * time.Millisecond
	serverStop    = 3 * time.Second // between SIGTERM and SIGKILL
	longestSocket = 107             // bytes of its path, by the kernel
	ticksASecond  = 100             // of CPU times in /proc, on every Linux
)

// server is one nbdkit.
type server struct {
	name  string
	uri   string
	cmd   *exec.Cmd
	words bytes.Buffer  // its stderr; valid once done is closed
	done  chan struct{} // closed when it has ended
}

// startServer starts an nbdkit with its default threads and returns when it listens. args are its filters, plugin and
// parameters.
func startServer(ctx context.Context, dir, name string, tcp bool, args []string) (*server, error) {
	s := &server{name: name, done: make(chan struct{})}
	socket, pidfile := filepath.Join(dir, name), filepath.Join(dir, name+".pid")
	where := []string{"-U", socket}
	s.uri = "nbd+unix:///?socket=" + socket
	if tcp {
		port, err := freePort(ctx)
		if err != nil {
			return nil, err
		}
		where = []string{"-i", "127.0.0.1", "-p", port}
		s.uri = "nbd://127.0.0.1:" + port
	} else if len(socket) > longestSocket {
		return nil, fmt.Errorf("the scratch folder's path is too long for a socket; choose a shorter -dir: %s", dir)
	}
	argv := append([]string{"nbdkit", "-f", "--exit-with-parent", "-P", pidfile}, where...)
	s.cmd = command(context.WithoutCancel(ctx), append(argv, args...)...)
	s.cmd.Stderr = &s.words
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for us: we end it after the clients
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = s.cmd.Wait() // why it ended stands in its words
		close(s.done)
	}()
	if err := s.listening(ctx, pidfile); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// freePort finds a port that nobody listens on. Somebody else can take it before nbdkit does; then nbdkit says so.
func freePort(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, errors.Join(err, l.Close())
}

// listening waits for the pidfile, which nbdkit writes when it is ready.
func (s *server) listening(ctx context.Context, pidfile string) error {
	ctx, cancel := context.WithTimeout(ctx, serverStart)
	defer cancel()
	ticker := time.NewTicker(serverPoll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("nbdkit %s does not start: %w", s.name, ctx.Err())
		case <-s.done:
			return s.gone()
		case <-ticker.C:
			if info, err := os.Stat(pidfile); err == nil && info.Size() > 0 {
				return nil
			}
		}
	}
}

func (s *server) gone() error {
	return fmt.Errorf("nbdkit %s ended: %s", s.name, strings.TrimSpace(s.words.String()))
}

// cpu is how many CPU seconds it has used so far.
func (s *server) cpu() (float64, error) {
	select {
	case <-s.done:
		return 0, s.gone()
	default:
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return statSeconds(string(text))
}

// statSeconds adds user and system time of a line of /proc/PID/stat. The program's name in it can hold anything.
func statSeconds(line string) (float64, error) {
	const user, system = 11, 12 // behind the name
	fields := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
	if len(fields) <= system {
		return 0, fmt.Errorf("not a line of /proc/PID/stat: %q", line)
	}
	u, err := strconv.ParseInt(fields[user], 10, 64)
	s, err2 := strconv.ParseInt(fields[system], 10, 64)
	return float64(u+s) / ticksASecond, errors.Join(err, err2)
}

// stop ends it. nbdkit waits for clients without end, so it is killed after a while.
func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	select {
	case <-s.done:
	case <-time.After(serverStop):
		_ = s.cmd.Process.Kill()
		<-s.done
	}
}
