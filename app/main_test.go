package app_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/vmferry/vmferry/app"
)

// asDaemon is the variable that makes this test binary a daemon, which can be killed. Its value is the configuration
// file.
const asDaemon = "APP_TEST_DAEMON"

func TestMain(m *testing.M) {
	if file := os.Getenv(asDaemon); file != "" {
		os.Exit(daemonMain(file))
	}
	goleak.VerifyTestMain(m)
}

func daemonMain(file string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, _, err := app.Load(app.Sources{File: file})
	if err == nil {
		log := slog.New(panicking{slog.NewJSONHandler(os.Stderr, nil)})
		err = app.Run(ctx, cfg, log, "test", func(d *app.Daemon) { fmt.Fprintln(os.Stdout, d.URL()) })
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// panicking panics where the actor Jobs logs that it has accepted a job for the VM panic.
type panicking struct{ slog.Handler }

func (h panicking) Handle(ctx context.Context, r slog.Record) error {
	r.Attrs(func(a slog.Attr) bool {
		if r.Message == "job accepted" && a.Key == "vm" && a.Value.String() == "panic" {
			panic("rehearsed")
		}
		return true
	})
	return h.Handler.Handle(ctx, r)
}
