package kit_test

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const mib = 1 << 20

// need skips the test if a program is not installed; where everything must be, it fails.
func need(tb testing.TB, program string) {
	tb.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		tb.Fatalf("%s is not installed", program)
	}
	tb.Skipf("%s is not installed", program)
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func wantKind(tb testing.TB, err error, want job.Kind) {
	tb.Helper()
	if job.KindOf(err) != want {
		tb.Fatalf("error is of kind %q, want %q: %v", job.KindOf(err), want, err)
	}
}

// shortDir is a temporary folder whose path is short enough for sockets.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "kit") //nolint:usetesting // the path of a socket must be short
	check(tb, err)
	tb.Cleanup(func() { check(tb, os.RemoveAll(dir)) })
	return dir
}

// serveNBDKit runs an nbdkit of its own, and returns the URI of what it serves.
func serveNBDKit(tb testing.TB, args ...string) string {
	tb.Helper()
	need(tb, "nbdkit")
	dir := shortDir(tb)
	socket, pid := filepath.Join(dir, "s"), filepath.Join(dir, "pid")
	cmd := exec.Command("nbdkit", append([]string{"-f", "--exit-with-parent", "-U", socket, "-P", pid}, args...)...)
	check(tb, cmd.Start())
	tb.Cleanup(func() {
		check(tb, cmd.Process.Kill())
		_ = cmd.Wait() // it was killed
	})
	await(tb, "nbdkit listens", func() bool { _, err := os.Stat(pid); return err == nil })
	return nbd.SocketURI(socket)
}

// disk is noise with holes of zeros, n bytes.
func disk(n int) []byte {
	b := make([]byte, n)
	noise := rand.NewChaCha8([32]byte{1})
	for at := 0; at < n; at += 192 << 10 {
		_, _ = noise.Read(b[at:min(n, at+128<<10)])
	}
	return b
}

func image(tb testing.TB, b []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "image")
	check(tb, os.WriteFile(path, b, 0o600))
	return path
}

// dirty is a target file full of rubbish.
func dirty(tb testing.TB, n int) string {
	tb.Helper()
	return image(tb, bytes.Repeat([]byte{0xAA}, n))
}

func content(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(path)
	check(tb, err)
	return b
}

func same(tb testing.TB, got, want []byte) {
	tb.Helper()
	if !bytes.Equal(got, want) {
		tb.Fatal("the bytes differ")
	}
}

// copyTo copies to a target by its name.
func copyTo(tb testing.TB, source, to string) error {
	tb.Helper()
	r, err := copytest.Copy(tb.Context(), nbd.Task{Source: source, Target: copytest.Onto(to)}, &nbd.Meter{})
	if err == nil && r.Done() != r.ToTransfer {
		tb.Fatalf("%d + %d bytes are done of %d", r.Transferred, r.Skipped, r.ToTransfer)
	}
	return err
}

// await waits until something is so.
func await(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		if so() {
			return
		}
	}
	tb.Fatalf("not in time: %s", what)
}

func logTo(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}
