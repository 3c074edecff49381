package app_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/app"
)

// notified listens like systemd, and sends each line that it receives until the listener is closed.
func notified(tb testing.TB) <-chan string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "vf") //nolint:usetesting // the path of a socket must be short
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		tb.Fatal(err)
	}
	received := make(chan string, 1000)
	go func() {
		defer close(received)
		b := make([]byte, 4096)
		for {
			n, err := l.Read(b)
			if err != nil {
				return
			}
			for line := range strings.SplitSeq(string(b[:n]), "\n") {
				received <- line
			}
		}
	}()
	tb.Cleanup(func() {
		l.Close()
		os.RemoveAll(dir)
	})
	tb.(*testing.T).Setenv("NOTIFY_SOCKET", path)
	return received
}

// await waits for a line that begins with prefix.
func await(tb testing.TB, received <-chan string, prefix string) string {
	tb.Helper()
	patience := time.After(20 * time.Second)
	for {
		select {
		case line := <-received:
			if strings.HasPrefix(line, prefix) {
				return line
			}
		case <-patience:
			tb.Fatalf("systemd did not receive %s", prefix)
		}
	}
}

func TestSystemdIsNotified(t *testing.T) {
	received := notified(t)
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(int((900 * time.Millisecond).Microseconds())))
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	cfg, _, err := app.Load(app.Sources{Flags: map[string]string{
		"listen":    "127.0.0.1:0",
		"state_dir": filepath.Join(t.TempDir(), "state"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- app.Run(ctx, cfg, slog.New(slog.DiscardHandler), "test", nil) }()
	await(t, received, "READY=1")
	if s := await(t, received, "STATUS="); s != "STATUS=0 jobs run, 0 wait; 0 disks are copied, 0 B/s" {
		t.Errorf("the status is %q", s)
	}
	await(t, received, "WATCHDOG=1")
	await(t, received, "WATCHDOG=1")
	cancel(errors.New("SIGTERM"))
	await(t, received, "STOPPING=1")
	if s := await(t, received, "STATUS="); !strings.Contains(s, "record their progress") {
		t.Errorf("the status is %q", s)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestTheUnitIsHardened(t *testing.T) {
	t.Parallel()
	need(t, "systemd-analyze")
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager",
		"../deploy/vmferry.service").CombinedOutput()
	found := regexp.MustCompile(`Overall exposure level for vmferry.service: ([0-9.]+)`).FindSubmatch(out)
	if found == nil {
		t.Fatalf("there is no level: %v\n%s", err, out)
	}
	if level, err := strconv.ParseFloat(string(found[1]), 64); err != nil || level > 1.5 {
		t.Errorf("the unit's exposure is %s, want at most 1.5", found[1])
	}
}
