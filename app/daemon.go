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

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

// The most that starting and stopping may take. Stopping waits until disks have flushed and recorded their progress; a
// slow target can make that long. Bytes that are not recorded by then are sent again after the next start.
const (
	startTime = 2 * time.Minute
	stopTime  = 9 * time.Second // vmferry serve promises at most 10 s
)

// Daemon is a running daemon. Its methods may be called from any goroutine.
type Daemon struct {
	server *server
	node   *actors.Node
	memory *store.Memory
	tunnel *tunnel
	log    *slog.Logger
	once   sync.Once
	end    *ending
	err    error // of stopping; valid after once has run
}

// Start puts the parts together. When it returns, requests are answered at Addr and unfinished jobs continue. The
// daemon runs until Stop; ctx limits the start only. There is no global state: one process may start several daemons.
//
// An error is of kind Conflict if another daemon has the state directory. The next steps of all errors tell what to
// correct.
func Start(ctx context.Context, cfg Config, log *slog.Logger, version string) (*Daemon, error) {
	for _, k := range cfg.Deprecated {
		log.Warn("this configuration key is deprecated", "key", k.Old, "use", k.New)
	}
	notes, err := cfg.Targets.allow().CheckURIs()
	if err != nil {
		return nil, err
	}
	for _, n := range notes {
		log.Warn("look at targets.uris", "note", n)
	}
	for key, set := range map[string]bool{
		"source.tls_unverified": cfg.Source.TLSUnverified, "targets.tls_unverified": cfg.Targets.TLSUnverified,
	} {
		if set {
			log.Warn("servers of scheme nbds are not verified: whoever answers is believed", "key", key)
		}
	}
	d := &Daemon{log: log, end: &ending{}}
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := startable(starting, cfg); err != nil {
		return nil, err
	}
	parts := fx.New(wiring(starting, cfg, log, version, d.end), fx.Populate(&d.server, &d.node, &d.memory, &d.tunnel))
	if err := parts.Err(); err != nil {
		return nil, errors.Join(dig.RootCause(err), d.Stop(context.WithoutCancel(ctx)))
	}
	args := []any{
		"version", version, "role", string(cfg.Role), "listen", d.Addr().String(), "state_dir", cfg.StateDir,
	}
	if d.server.secure != nil {
		args = append(args, "tls_listen", d.server.secure.String())
	}
	if cfg.asksForTokens() {
		args = append(args, "admin_socket", d.server.own)
	}
	log.Info("vmferry is ready", args...)
	return d, nil
}

// Addr is the address at which requests are answered, as the configuration's listen says.
func (d *Daemon) Addr() net.Addr { return d.server.addr }

// TunnelAddr is the address at which a tunnel ends; nil without one.
func (d *Daemon) TunnelAddr() net.Addr { return d.tunnel.addr }

// SecureAddr is the address that is served over TLS; nil if there is none.
func (d *Daemon) SecureAddr() net.Addr { return d.server.secure }

// URL is an address that asks this process for no token, in the form that rest.NewClient takes: Addr, or the socket in
// the state directory where addresses ask for tokens.
func (d *Daemon) URL() string { return d.server.own }

// Stop ends the event streams, then interrupts the jobs, waits until they have recorded their progress, and closes
// everything. The next Start continues from there. It may be called more than once.
func (d *Daemon) Stop(ctx context.Context) error {
	d.once.Do(func() {
		ctx, cancel := context.WithTimeout(ctx, stopTime)
		defer cancel()
		d.err = d.end.run(ctx)
	})
	return d.err
}

// Run runs a daemon from start to stop: it returns when ctx has ended, or the listener or an actor has failed that the
// daemon needs, and everything is closed. It notifies systemd. It calls ready, if that is not nil, when requests are
// answered.
func Run(ctx context.Context, cfg Config, log *slog.Logger, version string, ready func(*Daemon)) error {
	d, err := Start(ctx, cfg, log, version)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	notify(log, daemon.SdNotifyReady+"\nSTATUS="+d.status(ctx))
	if ready != nil {
		ready(d)
	}
	var failed error
	var background sync.WaitGroup
	background.Go(func() { watchdog(ctx, d.URL(), log) })
	background.Go(func() { d.notifyStatus(ctx) })
	select {
	case <-ctx.Done():
		log.Info("vmferry is stopping", "cause", context.Cause(ctx))
	case failed = <-d.server.failed:
	case failed = <-d.node.Failed():
	}
	cancel()
	background.Wait()
	notify(log, daemon.SdNotifyStopping+"\nSTATUS=stopping: disks flush and record their progress")
	op := "stop the daemon"
	if failed != nil {
		op = "run the daemon"
	}
	err = errors.Join(failed, d.Stop(context.WithoutCancel(ctx)))
	if err != nil {
		return &job.Error{
			Op: op, Kind: job.KindOf(err),
			Next: "Start vmferry again: nothing is lost, jobs continue from what is recorded", Err: err,
		}
	}
	log.Info("vmferry has stopped")
	return nil
}

// notify sends a state to systemd, if systemd started this process.
func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("could not notify systemd", "state", state, "err", err)
	}
}
