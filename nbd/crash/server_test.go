package crash_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// server is an nbdkit that a test started. It can die and come back on the same socket.
type server struct {
	tb          testing.TB
	args        []string
	uri, socket string
	pid         string
	log         string // of its first filter
	cmd         *exec.Cmd
	done        chan struct{}
	words       *lockedBuffer
}

// nbdkit starts an nbdkit that logs each request, and ends it with the test. args are more filters and the plugin.
// There is one thread for each connection, because nbdkit 1.32 otherwise aborts when a client is killed.
func nbdkit(tb testing.TB, args ...string) *server {
	tb.Helper()
	need(tb, "nbdkit")
	dir := shortDir(tb)
	s := &server{
		tb: tb, socket: filepath.Join(dir, "s"), pid: filepath.Join(dir, "pid"), log: filepath.Join(dir, "log"),
	}
	s.uri = nbd.SocketURI(s.socket)
	s.args = append([]string{"-f", "--exit-with-parent", "-t", "1", "-U", s.socket, "-P", s.pid, "--filter=log"},
		args...)
	s.args = append(s.args, "logfile="+s.log)
	s.start()
	tb.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.tb.Helper()
	s.words, s.done = &lockedBuffer{}, make(chan struct{})
	cmd := exec.Command("nbdkit", s.args...)
	cmd.Stderr = s.words
	check(s.tb, cmd.Start())
	done := s.done
	go func() {
		cmd.Wait()
		close(done)
	}()
	s.cmd = cmd
	await(s.tb, "nbdkit listens", func() bool {
		select {
		case <-done:
			s.tb.Fatalf("nbdkit ended early: %s", s.words)
		default:
		}
		b, err := os.ReadFile(s.pid)
		return err == nil && len(b) > 0
	})
}

// kill ends the server as a power failure would.
func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.done
}

// again restarts the server on the same socket, with an empty log.
func (s *server) again() {
	s.tb.Helper()
	s.kill()
	for _, path := range []string{s.socket, s.pid, s.log} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			s.tb.Fatal(err)
		}
	}
	s.start()
}

// stop makes the server hang, and cont lets it go on.
func (s *server) stop() { check(s.tb, s.cmd.Process.Signal(syscall.SIGSTOP)) }
func (s *server) cont() { check(s.tb, s.cmd.Process.Signal(syscall.SIGCONT)) }

// tail reads the log of a server as it grows.
type tail struct {
	tb      testing.TB
	f       *os.File
	rest    string
	read    job.Extents // the ranges of all reads, as a normal list
	reads   int64       // the bytes of all reads; a byte that is read twice counts twice
	wrote   int64       // the bytes of all writes
	flushes int         // flushes that were begun
	flushed int         // flushes that succeeded
	clients int
}

func (s *server) tail() *tail {
	s.tb.Helper()
	f, err := os.Open(s.log)
	check(s.tb, err)
	s.tb.Cleanup(func() { f.Close() })
	return &tail{tb: s.tb, f: f}
}

// look reads what was logged since the last look.
func (t *tail) look() *tail {
	t.tb.Helper()
	more, err := io.ReadAll(t.f)
	check(t.tb, err)
	text := t.rest + string(more)
	end := strings.LastIndexByte(text, '\n') + 1
	t.rest = text[end:]
	var read job.Extents
	for line := range strings.Lines(text[:end]) {
		var e job.Extent
		_, what, ok := strings.Cut(line, " connection=")
		if !ok {
			continue
		}
		_, what, _ = strings.Cut(what, " ")
		var id int
		switch {
		case strings.HasPrefix(what, "Read "):
			_, err := fmt.Sscanf(what, "Read id=%d offset=%v count=%v", &id, &e.Offset, &e.Length)
			check(t.tb, err)
			t.reads += e.Length
			read = append(read, e)
		case strings.HasPrefix(what, "Write "):
			_, err := fmt.Sscanf(what, "Write id=%d offset=%v count=%v", &id, &e.Offset, &e.Length)
			check(t.tb, err)
			t.wrote += e.Length
		case strings.HasPrefix(what, "Flush "):
			t.flushes++
		case strings.HasPrefix(what, "...Flush ") && strings.HasSuffix(what, "return=0\n"):
			t.flushed++
		case strings.HasPrefix(what, "Connect "):
			t.clients++
		}
	}
	if read != nil {
		t.read = append(t.read, read...).Merge(0)
	}
	return t
}
