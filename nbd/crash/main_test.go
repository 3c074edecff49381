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

// vmferry is the program under test, and house a folder for what all tests share.
var vmferry, house string

// TestMain builds the program once. VMFERRY names one that is built already. All of it takes minutes, so it is not
// among the tests of every change: `make crash` sets ROUNDS.
func TestMain(m *testing.M) {
	if os.Getenv("ROUNDS") == "" {
		say("skipped: these tests run by make crash, which sets ROUNDS")
		os.Exit(0)
	}
	var err error
	if house, err = os.MkdirTemp("", "crash"); err == nil {
		err = os.Chmod(house, 0o755) // a test runs the program as somebody else
	}
	if vmferry = os.Getenv("VMFERRY"); vmferry == "" && err == nil {
		vmferry = filepath.Join(house, "vmferry")
		var words []byte
		if words, err = exec.Command("go", "build", "-o", vmferry, "../../cmd/vmferry").CombinedOutput(); err != nil {
			err = fmt.Errorf("build vmferry: %w\n%s", err, words)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.RemoveAll(house)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(house)
		os.Exit(code)
	}))
}

// need skips the test if a program is not installed; where everything must be, it fails.
func need(tb testing.TB, programs ...string) {
	tb.Helper()
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			lacking(tb, p+" is not installed")
		}
	}
}

func lacking(tb testing.TB, what string) {
	tb.Helper()
	if os.Getenv("CI") == "true" {
		tb.Fatal(what)
	}
	tb.Skip(what)
}

// help is what vmferry says about copy.
var help = sync.OnceValue(func() string {
	text, _ := exec.Command(vmferry, "copy", "--help").CombinedOutput()
	return string(text)
})

// offers skips the test if copy does not know these flags yet; where everything must be, it fails.
func offers(tb testing.TB, flags ...string) {
	tb.Helper()
	for _, f := range flags {
		if !hasFlags(f) {
			lacking(tb, "NOT THERE YET: vmferry copy has no "+f)
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

// await looks every millisecond until it is so, for a minute at most.
func await(tb testing.TB, what string, so func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-tick.C {
		if so() {
			return
		}
	}
	tb.Fatalf("it never came to this: %s", what)
}

// number is a setting of the environment.
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

// say writes a line of figures, for whoever runs many rounds.
func say(format string, args ...any) { fmt.Fprintf(os.Stdout, format+"\n", args...) }

// locked is a buffer that one writes and another reads.
type locked struct {
	mu   sync.Mutex
	text []byte
}

var _ io.Writer = (*locked)(nil)

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	return len(b), nil
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}
