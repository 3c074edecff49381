package volumes_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd/kit"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		fmt.Fprintln(os.Stderr, serveForever(context.Background(), dir))
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

const mib = 1 << 20

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

// dirty is a file full of rubbish.
func dirty(tb testing.TB, n int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "target")
	check(tb, os.WriteFile(path, bytes.Repeat([]byte{0xAA}, n), 0o600))
	return path
}

// readOnlyExport is the URI of an export of 3 MiB that can only be read.
func readOnlyExport(tb testing.TB) string {
	tb.Helper()
	need(tb, "nbdkit")
	dir, err := os.MkdirTemp("", "vol") //nolint:usetesting // the path of a socket must be short
	check(tb, err)
	s, err := kit.Serve(tb.Context(), job.Export{Plugin: "memory", Params: []job.Param{{Key: "size", Value: "3M"}}},
		dir,
		nil)
	check(tb, err)
	tb.Cleanup(func() {
		check(tb, s.Stop(tb.Context()))
		check(tb, os.RemoveAll(dir))
	})
	return s.URI()
}

// need skips a test whose program is missing; in CI it fails.
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
