package app

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"go.uber.org/fx"

	"github.com/vmferry/vmferry/actors"
	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/transfer"
	"github.com/vmferry/vmferry/volumes"
	"github.com/vmferry/vmferry/webhook"
)

// wiring lists how to build each part. fx builds a part when another one needs it, and each part adds its own end to
// ending. So the parts are stopped in the reverse order: the HTTP server first, then the actors, which wait for their
// I/O, then the stores that they wrote to.
func wiring(ctx context.Context, cfg Config, log *slog.Logger, version string, end *ending) fx.Option {
	return fx.Options(
		fx.NopLogger, // errors come back from New
		fx.Supply(cfg, log, build(version), startContext{ctx}, end),
		fx.Provide(openJournal, openFolders, store.NewMemory, openSpeeds, openWebhooks, openRedis, openHistory,
			openVCenter, openVolumes, openLink, makePermits, makeTransfers, startNode, openCertificate, makeHandler,
			startServer),
		omaParts(), vmaParts(),
	)
}

// ending has the functions that stop the parts, in the order in which the parts were built. The hooks of fx are of no
// use here: fx drops them when a later part cannot be built, and the journal must be closed then as well.
type ending struct{ steps []func(context.Context) error }

func (e *ending) with(f func(context.Context) error) { e.steps = append(e.steps, f) }

// during runs a function in a goroutine of its own until the daemon stops: then its context ends, and it is waited for.
func (e *ending) during(start startContext, run func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(start))
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	e.with(func(context.Context) error {
		cancel()
		<-done
		return nil
	})
}

// run stops all parts, the newest first. An error of one does not keep the others from being stopped.
func (e *ending) run(ctx context.Context) error {
	var errs []error
	for _, f := range slices.Backward(e.steps) {
		errs = append(errs, f(ctx))
	}
	e.steps = nil
	return errors.Join(errs...)
}

type build string // the version of this binary

// startContext is the context of constructors that do I/O. The parts live longer.
type startContext struct{ context.Context } //nolint:containedctx // fx hands values to constructors, not arguments

func openJournal(end *ending, ctx startContext, cfg Config, log *slog.Logger) (*store.Journal, error) {
	j, err := store.OpenJournal(ctx, cfg.StateDir, store.WithLog(log))
	if err != nil {
		return nil, err
	}
	end.with(func(context.Context) error { return j.Close() })
	return j, nil
}

// openFolders needs the open journal: its lock keeps other daemons out of the state directory.
func openFolders(cfg Config, _ *store.Journal) (folders, error) { return makeFolders(cfg) }

// openSpeeds follows the reports from before the first one to after the last one.
func openSpeeds(
	end *ending, start startContext, dirs folders, memory *store.Memory, log *slog.Logger,
) *store.Throughput {
	t := store.OpenThroughput(dirs.speeds, log, time.Now)
	end.during(start, func(ctx context.Context) { t.Follow(ctx, memory) })
	return t
}

// optionalRedis has nil if no Redis is configured.
type optionalRedis struct{ *store.Redis }

func openRedis(end *ending, cfg Config) (optionalRedis, error) {
	if !cfg.Redis.on() {
		return optionalRedis{}, nil
	}
	r, err := store.OpenRedis(cfg.Redis.ofStore())
	if err != nil {
		return optionalRedis{}, err
	}
	end.with(func(context.Context) error { return r.Close() })
	return optionalRedis{r}, nil
}

func openVCenter(end *ending, ctx startContext, cfg Config, dirs folders, journal *store.Journal, log *slog.Logger) (
	_ *vcenter, err error,
) {
	v := newVCenter(cfg, log)
	v.cfg.RunDir = dirs.run
	if v.cfg.Owner, err = journal.NodeID(ctx); err != nil {
		return nil, err
	}
	end.with(func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, logoutTime)
		defer cancel()
		if err := v.Close(ctx); err != nil {
			log.Warn("could not log out of the vCenter", "err", err)
		}
		return nil // the session ends by itself
	})
	v.start(ctx)
	return v, nil
}

// openVolumes ends what an earlier run of the daemon has left at the targets, before any of them is opened.
func openVolumes(end *ending, ctx startContext, cfg Config, dirs folders, ledger *store.Journal, log *slog.Logger) (
	*volumes.Volumes, error,
) {
	node, err := ledger.NodeID(ctx)
	if err != nil {
		return nil, err
	}
	v := volumes.New(cfg.Targets.allow(), ledger, log, volumes.WithNode(node), volumes.WithRunDir(dirs.run))
	end.with(func(ctx context.Context) error { v.Close(ctx); return nil })
	return v, v.Recover(ctx)
}

// makePermits takes the limits that were set while the daemon ran, or the configured ones.
func makePermits(ctx startContext, cfg Config, journal *store.Journal, log *slog.Logger) (*transfer.Permits, error) {
	limits := cfg.Limits.ofNode()
	kept, err := journal.Limits(ctx)
	if err != nil {
		return nil, err
	}
	if kept != nil {
		limits = *kept
		log.Info("limits that were set while the daemon ran are in force instead of the configured ones",
			"limits", limits)
	}
	return transfer.NewPermits(limits), nil
}

func makeTransfers(cfg Config, dirs folders, v *vcenter, targets *volumes.Volumes, permits *transfer.Permits,
	log *slog.Logger,
) *transfer.Transfers {
	var ready func() error // by default: is nbdkit there
	if cfg.Source.Transport == "nbd" {
		ready = func() error { return nil } // the servers run already
	}
	return transfer.New(transfer.Config{
		Ready: ready, Source: v, Targets: targets, RunDir: dirs.run, Checkpoints: dirs.checkpoints,
		Connections: v.cfg.Source.Connections(), TLS: cfg.Source.tls(), Log: log,
	}, permits)
}

type nodeDeps struct {
	fx.In
	Ctx     startContext
	Cfg     Config
	Journal *store.Journal
	Memory  *store.Memory
	Speeds  *store.Throughput // begins before the node, and ends after it
	Redis   optionalRedis
	History optionalHistory
	VCenter *vcenter
	Targets *volumes.Volumes
	Copies  *transfer.Transfers
	Nodes   *nodes
	Link    optionalLink
	Log     *slog.Logger
}

func startNode(end *ending, d nodeDeps) (*actors.Node, error) {
	epoch, err := d.Journal.NextEpoch(d.Ctx, time.Now())
	if err != nil {
		return nil, err
	}
	last, err := lastReportsOf(d.Ctx, d.Journal)
	if err != nil {
		return nil, err
	}
	node, err := actors.Start(d.Ctx, actors.Deps{
		Journal: journal{d.Journal}, Sets: d.Journal, VCenter: d.VCenter, Targets: d.Targets, Transfers: d.Copies,
		Sinks: d.sinks(), Reports: last, Epoch: epoch, Log: d.Log, Owner: d.VCenter.cfg.Owner,
		Root: d.Cfg.Targets.Roots[0], LogEvery: d.Cfg.Report.Interval, LogAfter: d.Cfg.Report.Percent,
		ExternalJobs: d.Cfg.Limits.ExternalJobs, ExternalKeep: d.Cfg.Report.ExternalKeep,
		Nodes: d.Nodes.watched(), Remote: d.Link.remote(),
	})
	if err != nil {
		return nil, err
	}
	end.with(node.Stop)
	return node, nil
}

// lastReportsOf returns the last report of each job of before the restart. A job that has none yet gets one of its
// state: a reader that does not find a job takes it for deleted.
func lastReportsOf(ctx context.Context, journal *store.Journal) ([]report.Report, error) {
	last, err := journal.Reports(ctx)
	if err != nil {
		return nil, err
	}
	states, err := journal.Unreported(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range states {
		last = append(last, report.NewBuilder(st, nil).Report(st.CreatedAt, false))
	}
	return last, nil
}

// sinks has the in-process sink first, so that no other reader sees a report before the REST service has it.
func (d nodeDeps) sinks() []actors.Sink {
	sinks := []actors.Sink{memorySink{d.Memory}, lastReports{d.Journal, d.Cfg.Report.Interval, d.Cfg.Report.Percent}}
	if d.Redis.Redis != nil {
		sinks = append(sinks, redisSink{d.Redis.Redis})
	}
	if d.History.DB != nil {
		sinks = append(sinks, &historySink{d.History.DB, d.Cfg.Report})
	}
	return sinks
}

type handlerDeps struct {
	fx.In
	Ctx     startContext
	Cfg     Config
	Version build
	Journal *store.Journal
	Memory  *store.Memory
	Speeds  *store.Throughput
	VCenter *vcenter
	Targets *volumes.Volumes
	Copies  *transfer.Transfers
	Node    *actors.Node
	Nodes   *nodes
	Link    optionalLink
	Hooks   *webhook.Sender
	History optionalHistory
	TLS     optionalCertificate
	Log     *slog.Logger
}

func makeHandler(end *ending, d handlerDeps) (*apihttp.Handler, error) {
	runWebhooks(d.Ctx, end, d.Hooks, d.Memory)
	h, err := apihttp.New(context.WithoutCancel(d.Ctx), apihttp.Options{
		Reports: reports{d.Memory},
		Commands: forwarding{commands{
			d.Node, d.Journal, d.VCenter, d.looks().refusal, d.Cfg.Limits, d.Cfg.Limits.ofNode(),
		}, d.Nodes, d.Memory},
		Nodes:   shownNodes{d.Nodes, d.Node, d.Memory, d.Link},
		History: d.History.shown(),
		Volumes: d.Targets,
		Speeds:  d.Speeds,
		Source:  d.source(),
		System:  system{d.Cfg.Role, time.Now(), d.Node, d.VCenter, d.Nodes, d.Hooks, d.Link},
		Version: string(d.Version),
		Log:     d.Log,

		Tokens: d.Journal, Hosts: d.Cfg.Auth.Hosts, Certificate: d.TLS.Certificate,
		SessionLife: d.Cfg.Auth.Session, RequestsPerSecond: d.Cfg.Auth.RequestsPerSecond,
	})
	if err != nil {
		return nil, err
	}
	end.with(func(context.Context) error { h.Close(); return nil })
	return h, nil
}

func (d handlerDeps) source() apihttp.Source {
	switch {
	case d.VCenter.configured() == nil:
		return d.looks()
	case len(d.Nodes.ours()) > 0:
		return farSource{d.Nodes}
	}
	return nil
}

func (d handlerDeps) looks() source {
	return source{d.VCenter, d.Targets, d.Copies, d.Journal, d.Cfg.Targets.Roots[0]}
}

// logoutTime is the most that logging out of the vCenter may take.
const logoutTime = 2 * time.Second
