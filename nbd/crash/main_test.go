package crash_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// vmferry is the path of the program under test, and sharedDir a folder that all tests share.
var vmferry, sharedDir string

// TestMain builds the program once. VMFERRY names one that is built already. These tests take minutes, so they do not
// run with every change: `make crash` sets ROUNDS.
func TestMain(m *testing.M) {
	if os.Getenv("ROUNDS") == "" {
		say("skipped: these tests run by make crash, which sets ROUNDS")
		os.Exit(0)
	}
	var err error
	if sharedDir, err = os.MkdirTemp("", "crash"); err == nil {
		err = os.Chmod(sharedDir, 0o755) // a test runs the program as another user
	}
	if vmferry = os.Getenv("VMFERRY"); vmferry == "" && err == nil {
		vmferry = filepath.Join(sharedDir, "vmferry")
		var words []byte
		if words, err = exec.Command("go", "build", "-o", vmferry, "../../cmd/vmferry").CombinedOutput(); err != nil {
			err = fmt.Errorf("build vmferry: %w\n%s", err, words)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.RemoveAll(sharedDir)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(sharedDir)
		os.Exit(code)
	}))
}

// need skips the test if a program is not installed. In CI it fails the test instead.
func need(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			skipOrFail(tb, p+" is not installed")
		}
	}
}

// skipOrFail skips the test. In CI, where nothing may be missing, it fails the test.
func skipOrFail(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(what)
	}
	tb.Skip(what)
}

// help is the help of vmferry copy.
var help = sync.OnceValue(func() string {
	text, _ := exec.Command(vmferry, "copy", "--help").CombinedOutput()
	return string(text)
})

// needFlags skips the test if vmferry copy has not all of these flags. In CI it fails the test instead.
func needFlags(tb testing.TB, flags ...string) {
	tb.Helper()
	for _, f := range flags {
		if !hasFlags(f) {
			skipOrFail(tb, "NOT THERE YET: vmferry copy has no "+f)
		}
	}
}

func hasFlags(flags ...string) bool {
	for _, f := range flags {
		if !strings.Contains(help(), f+" ") {
			return false
		}
	}
	return true
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// await checks every millisecond until so is true, for a minute at most.
func await(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-tick.C {
		if so() {
			return
		}
	}
	tb.Fatalf("never true: %s", what)
}

// number is a setting from the environment.
func number(tb testing.TB, name string, standard int64) int64 {
	tb.Helper()
	text := os.Getenv(name)
	if text == "" {
		return standard
	}
	n, err := strconv.ParseInt(text, 10, 64)
	check(tb, err)
	return n
}

// shortDir is a temporary folder whose path is short enough for sockets.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "crash") //nolint:usetesting // the path of a socket must be short
	check(tb, err)
	tb.Cleanup(func() { check(tb, os.RemoveAll(dir)) })
	return dir
}

// say writes a line of figures to standard output, for runs of many rounds.
func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

// lockedBuffer is a buffer that is safe for concurrent use.
type lockedBuffer struct {
	mu   sync.Mutex
	text []byte
}

var _ io.Writer = (*lockedBuffer)(nil)

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	return len(b), nil
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
