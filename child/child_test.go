package child_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/job"
)

// helper is the variable that makes this test binary one of the programs of TestMain.
const helper = "CHILD_TEST_HELPER"

func TestMain(m *testing.M) {
	switch os.Getenv(helper) {
	case "listen": // at a socket
		l, err := net.Listen("unix", os.Args[1])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for {
			if c, err := l.Accept(); err == nil {
				c.Close()
			}
		}
	case "start": // a child of its own, which says "ready" at a pipe, and wait for SIGKILL
		c := shell(os.Args[1], "exec 3>"+os.Args[2]+"; echo ready >&3; exec sleep 1000")
		c.Orphaned = syscall.SIGKILL
		if _, err := child.Start(context.Background(), c); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		select {}
	}
	os.Exit(m.Run())
}

// shell is a command of /bin/sh with its log in dir.
func shell(dir, script string) child.Command {
	return child.Command{
		Name: "it", Argv: []string{"/bin/sh", "-c", script}, Log: filepath.Join(dir, "it.log"),
		Grace: time.Minute,
	}
}

// start starts a child that the test ends.
func start(tb testing.TB, c child.Command) *child.Process {
	tb.Helper()
	p, err := child.Start(tb.Context(), c)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = p.End(syscall.SIGKILL) })
	return p
}

// pipe is a named pipe. Its reader sees the end of the file when no process has the other end any more.
type pipe struct {
	testing.TB
	path  string
	lines *bufio.Reader
}

func newPipe(tb testing.TB) *pipe {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		tb.Fatal(err)
	}
	return &pipe{TB: tb, path: path}
}

// line waits for the next line.
func (p *pipe) line() string {
	p.Helper()
	if p.lines == nil {
		f, err := os.Open(p.path) // waits for a writer
		if err != nil {
			p.Fatal(err)
		}
		p.Cleanup(func() { f.Close() })
		p.lines = bufio.NewReader(f)
	}
	text, err := p.lines.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		p.Fatal(err)
	}
	return strings.TrimSpace(text)
}

func (p *pipe) wants(text string) {
	p.Helper()
	if got := p.line(); got != text {
		p.Errorf("the pipe says %q, want %q", got, text)
	}
}

const nothing = "" // the line after the last writer has ended

func TestAChildIsReadyWhenItsSocketAnswers(t *testing.T) {
	dir, err := os.MkdirTemp("", "child") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	c := child.Command{
		Name: "it", Argv: []string{os.Args[0], socket}, Env: append(os.Environ(), helper+"=listen"),
		Log: filepath.Join(dir, "log"), Socket: socket, Grace: time.Minute,
	}
	for range 2 { // the second finds the socket of the first, which was killed
		p := start(t, c)
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		if err := p.End(syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
}

func TestAChildIsReadyWhenItsFileIsThere(t *testing.T) {
	dir := t.TempDir()
	c := shell(dir, "echo $$ >"+dir+"/new && mv "+dir+"/new "+dir+"/pid && exec sleep 1000")
	c.File = filepath.Join(dir, "pid")
	if err := os.WriteFile(c.File, []byte("of an earlier run"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, c)
	if text, err := os.ReadFile(c.File); err != nil || strings.TrimSpace(string(text)) != fmt.Sprint(p.PID()) {
		t.Errorf("pidfile: %q, %v, want %d", text, err, p.PID())
	}
}

func TestAChildIsReadyWhenItHasWrittenOneObjectAndMayWriteOn(t *testing.T) {
	dir, beside := t.TempDir(), newPipe(t)
	var answer struct{ PID int }
	c := shell(dir, `echo words >&2; echo "{\"pid\": $$}"; head -c 300000 /dev/zero; echo on >`+beside.path+
		"; exec sleep 1000")
	c.Answer = &answer
	p := start(t, c)
	if answer.PID != p.PID() {
		t.Errorf("answer %+v, want %d", answer, p.PID())
	}
	beside.wants("on")
	if text, err := os.ReadFile(c.Log); err != nil || string(text) != "words\n" {
		t.Errorf("log: %q, %v", text, err)
	}
}

func TestAChildThatEndsBeforeItIsReadyTellsTheEndOfItsLog(t *testing.T) {
	for name, want := range map[string]func(*child.Command){
		"socket": func(c *child.Command) { c.Socket = c.Log + ".sock" },
		"file":   func(c *child.Command) { c.File = c.Log + ".pid" },
		"answer": func(c *child.Command) { c.Answer = &struct{}{} },
	} {
		t.Run(name, func(t *testing.T) {
			c := shell(t.TempDir(), "printf 'one\ntwo\nthree\n  four\n' >&2; exit 7")
			want(&c)
			_, err := child.Start(t.Context(), c)
			const text = "run it: it ended (exit status 7): two | three | four"
			if job.KindOf(err) != job.Internal || err.Error() != text || job.NextOf(err) != "See "+c.Log {
				t.Errorf("%s error %v, next %q", job.KindOf(err), err, job.NextOf(err))
			}
		})
	}
}

func TestAProgramThatIsNotThereIsMissing(t *testing.T) {
	c := shell(t.TempDir(), "")
	c.Argv = []string{"/nowhere/program"}
	c.Answer = &struct{}{}
	if _, err := child.Start(t.Context(), c); job.KindOf(err) != job.Missing {
		t.Errorf("%s error %v", job.KindOf(err), err)
	}
}

func TestAWaitThatIsCancelledEndsTheChild(t *testing.T) {
	dir, alive := t.TempDir(), newPipe(t)
	ctx, cancel := context.WithCancel(t.Context())
	c := shell(dir, "exec 3>"+alive.path+"; echo up >&3; exec sleep 1000")
	c.File = filepath.Join(dir, "never")
	go func() {
		alive.wants("up")
		cancel()
	}()
	if _, err := child.Start(ctx, c); job.KindOf(err) != job.Cancelled {
		t.Errorf("%s error %v", job.KindOf(err), err)
	}
	alive.wants(nothing)
}

func TestAChildIsAskedToEndAndHasItsOwnGroup(t *testing.T) {
	says := newPipe(t)
	p := start(t, shell(t.TempDir(), "exec 3>"+says.path+
		"; trap 'echo asked >&3; exit' TERM; echo up >&3; sleep 1000 3>&- & wait"))
	says.wants("up")
	if group, err := syscall.Getpgid(p.PID()); err != nil || group != p.PID() {
		t.Errorf("group %d of %d, %v", group, p.PID(), err)
	}
	for range 2 {
		if err := p.End(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
	says.wants("asked")
	<-p.Done()
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // the sleep
	if err := (*child.Process)(nil).End(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
}

func TestAChildThatDoesNotEndIsKilledWithItsGroup(t *testing.T) {
	alive := newPipe(t)
	c := shell(t.TempDir(), "trap '' TERM; exec 3>"+alive.path+"; echo up >&3; sleep 1000 & sleep 1000")
	c.Grace = 10 * time.Millisecond
	p := start(t, c)
	alive.wants("up")
	if err := p.End(syscall.SIGTERM); job.KindOf(err) != job.Timeout {
		t.Errorf("%s error %v", job.KindOf(err), err)
	}
	alive.wants(nothing) // of the shell and both sleeps
}

// onThread runs f on a thread that ends after f, and returns the path of the thread in /proc.
func onThread(f func()) string {
	path := make(chan string)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		if id := syscall.Gettid(); id != syscall.Getpid() {
			f()
			path <- fmt.Sprintf("/proc/self/task/%d", id)
			return
		}
		path <- onThread(f) // the first thread of a process never ends
	}()
	return <-path
}

func TestAChildOutlivesTheThreadThatCalledStart(t *testing.T) {
	says := newPipe(t)
	var p *child.Process
	thread := onThread(func() {
		p = start(t, shell(t.TempDir(), "exec 3>"+says.path+
			"; trap 'echo alive >&3; exit' USR1; echo up >&3; sleep 1000 3>&- & wait"))
		says.wants("up")
	})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for gone := false; !gone; {
		<-tick.C
		_, err := os.Stat(thread)
		gone = errors.Is(err, os.ErrNotExist)
	}
	if err := p.End(syscall.SIGUSR1); err != nil {
		t.Error(err)
	}
	says.wants("alive")
	_ = syscall.Kill(-p.PID(), syscall.SIGKILL) // the sleep
}

func TestAChildDiesWithTheProcessThatStartedIt(t *testing.T) {
	says := newPipe(t)
	starter := exec.Command(os.Args[0], t.TempDir(), says.path)
	starter.Env = append(os.Environ(), helper+"=start")
	starter.Stderr = os.Stderr
	if err := starter.Start(); err != nil {
		t.Fatal(err)
	}
	says.wants("ready")
	if err := starter.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = starter.Wait() // it was killed
	says.wants(nothing)
}
