package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"go.uber.org/dig"
	"go.uber.org/fx"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

// Times of starting and stopping. Stopping waits for disks to flush and record what is durable, which a slow target
// makes slow; what is not recorded by then is only sent again.
const (
	startTime = 2 * time.Minute
	stopTime  = 9 * time.Second // who stops us waits for ten
)

// Daemon is a running daemon. Its methods may be called from any goroutine.
type Daemon struct {
	server *server
	memory *store.Memory
	log    *slog.Logger
	once   sync.Once
	end    *ending
	err    error // of stopping; valid after once
}

// Start puts the parts together. When it returns, requests are answered at Addr and unfinished jobs go on. The daemon
// runs until Stop; ctx bounds the starting only. Nothing is global: one process may start many.
//
// Errors are of kind Conflict if another daemon has the state directory; the others say what must be corrected.
func Start(ctx context.Context, cfg Config, log *slog.Logger, version string) (*Daemon, error) {
	d := &Daemon{log: log, end: &ending{}}
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	parts := fx.New(wiring(starting, cfg, log, version, d.end), fx.Populate(&d.server, &d.memory))
	if err := parts.Err(); err != nil {
		return nil, errors.Join(dig.RootCause(err), d.Stop(context.WithoutCancel(ctx)))
	}
	log.Info("vmferry is ready", "version", version, "role", string(cfg.Role), "listen", d.Addr().String(), "state_dir",
		cfg.StateDir)
	return d, nil
}

// Addr is where requests are answered.
func (d *Daemon) Addr() net.Addr { return d.server.addr }

// URL is Addr as a client wants it.
func (d *Daemon) URL() string {
	if d.Addr().Network() == "unix" {
		return "unix:" + d.Addr().String()
	}
	return "http://" + d.Addr().String()
}

// Failed gets the error of a listener that broke, and is closed when nothing is served any more.
func (d *Daemon) Failed() <-chan error { return d.server.failed }

// Stop ends the event streams, then the jobs where they are, waits until what they have written is recorded, and closes
// everything. The next Start goes on from there. It may be called more than once.
func (d *Daemon) Stop(ctx context.Context) error {
	d.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, stopTime)
		defer cancel()
		d.err = d.end.run(ctx)
	})
	return d.err
}

// Run is a daemon from start to stop: it returns when ctx has ended and everything is closed, or when the listener
// broke. It tells systemd and, if that is not nil, ready.
func Run(ctx context.Context, cfg Config, log *slog.Logger, version string, ready func(*Daemon)) error {
	d, err := Start(ctx, cfg, log, version)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tell(log, daemon.SdNotifyReady+"\nSTATUS="+d.status(ctx))
	if ready != nil {
		ready(d)
	}
	var broken error
	var beside sync.WaitGroup
	beside.Go(func() { watchdog(ctx, d.URL(), log) })
	beside.Go(func() { d.tellStatus(ctx) })
	select {
	case <-ctx.Done():
		log.Info("vmferry is stopping", "cause", context.Cause(ctx))
	case broken = <-d.Failed():
	}
	cancel()
	beside.Wait()
	tell(log, daemon.SdNotifyStopping+"\nSTATUS=flushes and records how far each disk is")
	err = errors.Join(broken, d.Stop(context.WithoutCancel(ctx)))
	if err != nil {
		return &job.Error{Op: "stop the daemon", Kind: job.KindOf(err),
			Next: "Nothing is lost: the next start goes on from what is recorded", Err: err}
	}
	log.Info("vmferry has stopped")
	return nil
}

// tell informs systemd, if it started us.
func tell(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("could not tell systemd", "state", state, "err", err)
	}
}
