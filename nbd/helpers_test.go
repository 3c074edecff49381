package nbd_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
	"github.com/vmferry/vmferry/volumes/copytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	kib = 1 << 10
	mib = 1 << 20
)

// need skips the test if a program is not installed; with CI=true it fails the test.
func need(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			tb.Fatalf("%s is not installed", p)
		}
		tb.Skipf("%s is not installed", p)
	}
}

// shortDir is a temporary folder whose path is short enough for sockets.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "nbd") //nolint:usetesting // the path of a socket must be short
	check(tb, err)
	tb.Cleanup(func() { check(tb, os.RemoveAll(dir)) })
	return dir
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// process is a server that a test started.
type process struct {
	cmd    *exec.Cmd
	uri    string
	socket string
	done   chan struct{}
	words  *bytes.Buffer // standard error; read it after done only
}

// kit starts an nbdkit with those arguments, plugin included, and ends it with the test.
func kit(tb testing.TB, args ...string) *process {
	tb.Helper()
	need(tb, "nbdkit")
	dir := shortDir(tb)
	socket := filepath.Join(dir, "s")
	pid := filepath.Join(dir, "pid")
	options := []string{"-f", "--exit-with-parent", "-t", "1", "-U", socket, "-P", pid}
	return serve(tb, socket, pid, "nbdkit", append(options, args...)...)
}

// qemu starts a qemu-nbd over a raw file.
func qemu(tb testing.TB, file string, args ...string) *process {
	tb.Helper()
	need(tb, "qemu-nbd")
	dir := shortDir(tb)
	socket := filepath.Join(dir, "s")
	pid := filepath.Join(dir, "pid")
	options := []string{"-f", "raw", "-t", "-k", socket, "--pid-file", pid}
	return serve(tb, socket, pid, "qemu-nbd", append(append(options, args...), file)...)
}

func serve(tb testing.TB, socket, pid, program string, args ...string) *process {
	tb.Helper()
	p := &process{
		cmd: exec.Command(program, args...), uri: nbd.SocketURI(socket), socket: socket,
		done: make(chan struct{}), words: &bytes.Buffer{},
	}
	p.cmd.Stderr = p.words
	check(tb, p.cmd.Start())
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	tb.Cleanup(p.kill)
	await(tb, program+" listens", func() bool {
		select {
		case <-p.done:
			tb.Fatalf("%s ended early: %s", program, p.words)
		default:
		}
		b, err := os.ReadFile(pid)
		return err == nil && len(b) > 0
	})
	return p
}

func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// await asks so every 2 ms until it returns true, for 30 s at most.
func await(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		if so() {
			return
		}
	}
	tb.Fatalf("this did not come within 30 s: %s", what)
}

// shape fills a disk.
type shape func(b []byte)

func seeded(b []byte) *rand.ChaCha8 {
	var seed [32]byte
	seed[0], seed[1] = byte(len(b)), byte(len(b)>>8)
	return rand.NewChaCha8(seed)
}

func dense(b []byte)  { seeded(b).Read(b) }
func zeroes(b []byte) { clear(b) }

// mixed has data, long zeros, short zeros and single bytes.
func mixed(b []byte) {
	r := seeded(b)
	random := rand.New(r)
	for at := 0; at < len(b); {
		n := min(len(b)-at, 1+random.IntN(300*kib))
		switch random.IntN(4) {
		case 0:
			r.Read(b[at : at+n])
		case 1:
			clear(b[at : at+n])
		case 2:
			clear(b[at : at+n])
			b[at+n-1] = 1
		case 3:
			n = min(len(b)-at, 3*n)
			clear(b[at : at+n])
			b[at] = 1
		}
		at += n
	}
}

// image writes a file with those bytes, holes where there are whole blocks of zeros.
func image(tb testing.TB, b []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "image")
	f, err := os.Create(path)
	check(tb, err)
	check(tb, f.Truncate(int64(len(b))))
	for at := 0; at < len(b); at += 64 * kib {
		part := b[at:min(len(b), at+64*kib)]
		if bytes.Count(part, []byte{0}) == len(part) {
			continue
		}
		_, err := f.WriteAt(part, int64(at))
		check(tb, err)
	}
	check(tb, f.Close())
	return path
}

func disk(n int, s shape) []byte {
	b := make([]byte, n)
	s(b)
	return b
}

// dirty is a target file full of rubbish.
func dirty(tb testing.TB, n int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "target")
	check(tb, os.WriteFile(path, bytes.Repeat([]byte{0xAA}, n), 0o600))
	return path
}

// blank is a target file of zeros.
func blank(tb testing.TB, n int64) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "target")
	check(tb, volumes.Create(path, n))
	return path
}

func content(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	check(tb, err)
	return b
}

// same compares two contents and names the first byte that differs.
func same(tb testing.TB, got, want []byte) {
	tb.Helper()
	if len(got) < len(want) {
		tb.Fatalf("target has %d bytes, want %d", len(got), len(want))
	}
	if bytes.Equal(got[:len(want)], want) {
		return
	}
	for i := range want {
		if got[i] != want[i] {
			tb.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

func wantKind(tb testing.TB, err error, want job.Kind) {
	tb.Helper()
	if job.KindOf(err) != want {
		tb.Fatalf("error is of kind %q, want %q: %v", job.KindOf(err), want, err)
	}
}

func wantErrno(tb testing.TB, err error, want syscall.Errno) {
	tb.Helper()
	if !errors.Is(err, want) {
		tb.Fatalf("error %v does not hold errno %v", err, want)
	}
}

// mustCopy copies and requires success.
func mustCopy(tb testing.TB, task nbd.Task) nbd.Result {
	tb.Helper()
	r, err := copytest.Copy(tb.Context(), task, &nbd.Meter{})
	check(tb, err)
	if r.Done() != r.ToTransfer {
		tb.Fatalf("%d + %d bytes are done of %d", r.Transferred, r.Skipped, r.ToTransfer)
	}
	return r
}

// moved and durable are conditions on the progress of a copy.
func moved(n int64) func(job.Counters) bool {
	return func(c job.Counters) bool { return c.Transferred >= n }
}

func durable(n int64) func(job.Counters) bool {
	return func(c job.Counters) bool { return c.Durable >= n }
}

// while runs a copy that does not reconnect, and calls do once so returns true for its counters.
func while(
	tb testing.TB, ctx context.Context, task nbd.Task, so func(job.Counters) bool, do func(),
) (nbd.Result, error) {
	tb.Helper()
	task.Reconnect = -1
	var m nbd.Meter
	type outcome struct {
		r   nbd.Result
		err error
	}
	ended := make(chan outcome, 1)
	go func() {
		r, err := copytest.Copy(ctx, task, &m)
		ended <- outcome{r, err}
	}()
	await(tb, "the copy has got so far", func() bool { return so(m.Counters()) || len(ended) > 0 })
	do()
	o := <-ended
	return o.r, o.err
}

func logTo(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
