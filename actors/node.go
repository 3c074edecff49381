package actors

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// Deps is what a node needs of the world.
type Deps struct {
	Journal Journal
	Sets    Sets
	VCenter VCenter
	Targets Targets
	// Transfers keep to limits of their own, which Node.SetLimits changes.
	Transfers Transfers
	Sinks     []Sink          // in the order in which they get each report
	Reports   []report.Report // the last ones before this start; nil for none
	Epoch     int64           // of this start; higher than any before
	Log       *slog.Logger    // nil discards
	Limits    job.Limits      // of this node; the zero value for the standard ones
	Owner     string          // of snapshots: differs from that of every other node; "" for nobody, who tidies nothing up
	Root      string          // where disks without a target go; "" for nowhere
	Tick      time.Duration
	Now       func() time.Time // nil for time.Now
}

// deps is Deps with everything in its place.
type deps struct {
	life      context.Context //nolint:containedctx // ends when the node stops; every work derives its own from it
	journal   Journal
	sets      Sets
	vcenter   VCenter
	targets   Targets
	transfers Transfers
	log       *slog.Logger
	owner     string
	root      string
	tick      time.Duration
	now       func() time.Time
}

// tickEvery is how often a disk tells how far it is, and how often reports are made at most.
const tickEvery = 250 * time.Millisecond

// Node is the actors of one daemon. Its methods may be called from any goroutine.
type Node struct {
	system     *actor.ActorSystem
	jobs       *actor.PID
	spawner    *actor.PID // of transfers
	aggregator *actor.PID
	sinks      []*sinkWriter
	permits    Permits
	end        context.CancelCauseFunc
	reaped     chan struct{} // closed when nobody looks for snapshots any more
}

// Start spawns the actors and goes on with every job that the journal has unfinished. The node lives until Stop; ctx
// gives values only.
func Start(ctx context.Context, d Deps) (*Node, error) {
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	in := &deps{
		life: life, journal: d.Journal, sets: d.Sets, vcenter: d.VCenter, targets: d.Targets,
		transfers: d.Transfers, log: d.Log, owner: d.Owner, root: d.Root, tick: d.Tick, now: d.Now,
	}
	in.fill()
	n := &Node{system: newSystem(in.log), permits: in.transfers, end: end, reaped: make(chan struct{})}
	for _, s := range d.Sinks {
		n.sinks = append(n.sinks, newSinkWriter(s))
	}
	var err error
	if n.aggregator, err = n.system.Root.SpawnNamed(aggregatorProps(in, d.Epoch, d.Reports, n.sinks),
		"aggregator"); err != nil {
		return nil, err
	}
	if n.spawner, err = n.system.Root.SpawnNamed(transfersProps(in, n.aggregator), "transfers"); err != nil {
		return nil, err
	}
	if n.jobs, err = n.system.Root.SpawnNamed(jobsProps(in, n.aggregator, n.spawner, d.Reports), "jobs"); err != nil {
		return nil, err
	}
	go func() {
		defer close(n.reaped)
		snapshotReaper{in, n.system, n.jobs}.run(life)
	}()
	return n, nil
}

func (d *deps) fill() {
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	if d.tick <= 0 {
		d.tick = tickEvery
	}
	if d.now == nil {
		d.now = time.Now
	}
}

// Stop ends every job where it is: running copies flush and record what is durable, the journal has the rest, and the
// next Start goes on. It returns when nothing runs any more, or with ctx's error.
func (n *Node) Stop(ctx context.Context) error {
	n.end(job.ErrStopping)
	err := errors.Join(stop(ctx, n.system, n.jobs), stop(ctx, n.system, n.spawner), stop(ctx, n.system, n.aggregator))
	select {
	case <-n.reaped:
	case <-ctx.Done():
		err = errors.Join(err, context.Cause(ctx))
	}
	n.system.Shutdown()
	return err
}

// Submit accepts a job: when it returns, the job is durable. id "" makes one. A key that came before with the same body
// gives the earlier job and existing. Errors are of kind Invalid and Conflict (the VM has an unfinished job, the id or
// key is taken).
func (n *Node) Submit(ctx context.Context, spec job.Spec, id job.ID, key, bodyHash string) (_ job.ID, existing bool,
	err error) {
	spec, err = spec.Normal()
	if err != nil {
		return "", false, err
	}
	a, err := ask[messages.Submitted](ctx, n.system, n.jobs,
		messages.Submit{ID: id, Spec: spec, IdempotencyKey: key, BodyHash: bodyHash})
	if err != nil {
		return "", false, err
	}
	return a.ID, a.Existing, a.Err
}

// Command asks a job to do something; it returns when the request is durable, not when it is done. Errors are of kind
// NotFound, and Conflict with the verbs that are allowed now.
func (n *Node) Command(ctx context.Context, id job.ID, asked job.CommandReceived) error {
	return n.answer(ctx, n.jobs, messages.Command{ID: id, Asked: asked})
}

// Limit changes limits of a job: running copies keep to them at once.
func (n *Node) Limit(ctx context.Context, id job.ID, l job.Limited) error {
	if err := l.Check(); err != nil {
		return err
	}
	return n.answer(ctx, n.jobs, messages.Limit{ID: id, Limited: l})
}

// Rehearse makes the actor of a running disk panic. Errors are of kind NotFound, and Conflict if the disk does not run.
func (n *Node) Rehearse(ctx context.Context, id job.ID, disk job.DiskID) error {
	return n.answer(ctx, n.jobs, messages.Rehearse{ID: id, Disk: disk})
}

// Limits are those of the node, and what is in use.
func (n *Node) Limits() (job.Limits, []job.HostUse) { return n.permits.Limits() }

// SetLimits changes the limits of the node. Running copies keep to those of speed and of bytes in flight at once; all
// others count for who comes next.
func (n *Node) SetLimits(l job.Limits) error {
	if err := l.Check(); err != nil {
		return err
	}
	n.permits.SetLimits(l)
	n.system.Root.Send(n.jobs, messages.Limits{Jobs: l.Jobs})
	return nil
}

// ExternalUpdate takes what another copy tool says of its job.
func (n *Node) ExternalUpdate(ctx context.Context, id job.ID, u report.Update) error {
	return n.answer(ctx, n.aggregator, messages.External{ID: id, Update: u})
}

func (n *Node) answer(ctx context.Context, pid *actor.PID, msg any) error {
	a, err := ask[messages.Answer](ctx, n.system, pid, msg)
	if err != nil {
		return err
	}
	return a.Err
}

// Sinks tells how the sinks are.
func (n *Node) Sinks() []SinkHealth {
	out := make([]SinkHealth, 0, len(n.sinks))
	for _, o := range n.sinks {
		out = append(out, *o.health.Load())
	}
	return out
}
