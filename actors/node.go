package actors

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// Deps is what a node is made of.
type Deps struct {
	Journal Journal
	Sets    Sets
	VCenter VCenter
	Targets Targets
	// Transfers know their limits; Node.SetLimits changes them.
	Transfers Transfers
	Sinks     []Sink           // in the order in which they get each report
	Reports   []report.Report  // the last ones before this start; nil for none
	Epoch     int64            // of this start; higher than any before
	Log       *slog.Logger     // nil discards
	Owner     string           // this node's name in its snapshots, unique among the nodes; "" removes no orphans
	Root      string           // folder for disks without a target; "" for none
	Tick      time.Duration    // of progress and reports; 0 for 250 ms
	LogEvery  time.Duration    // between lines with new numbers only, of one job; 0 for 2 s
	LogAfter  float64          // growth of the overall percent after which there is a line before that; 0 for 1
	Now       func() time.Time // nil for time.Now
	Nodes     []WatchedNode    // whose jobs are shown here; their names differ
	Remote    Remote           // nil for a node that is linked with no other

	ExternalJobs int           // the most jobs of other copy tools that are known; 0 for 10 000
	ExternalKeep time.Duration // how long such a job is known after its tool's last update; 0 for 72 h
}

// deps is Deps with its defaults filled in.
type deps struct {
	life      context.Context //nolint:containedctx // ends when the node stops; each work derives its own from it
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
	counts    *counts
	fail      func(error) // ends the node

	externalJobs int
	externalKeep time.Duration
}

// tickEvery is the interval at which a transfer sends its progress, and at which reports are made at most.
const tickEvery = 250 * time.Millisecond

// Node holds the actors of one daemon. Its methods may be called from any goroutine, but not from an actor.
type Node struct {
	system     *actor.ActorSystem
	jobs       *actor.PID
	spawner    *actor.PID // of transfers
	aggregator *actor.PID
	watchers   *actor.PID // of other nodes; nil if none is watched
	watched    []*watchedNode
	sinks      []*sinkWriter
	permits    Permits
	cancel     context.CancelCauseFunc
	reaperDone chan struct{} // closed when the snapshot reaper has ended
	counts     *counts
	failed     chan error
}

// Start spawns the actors and goes on with each job that the journal has unfinished. When it returns, the immediate
// sinks have a report of each job of d.Reports. The node runs until Stop; ctx gives values only.
func Start(ctx context.Context, d Deps) (*Node, error) {
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	in := &deps{
		life: life, journal: d.Journal, sets: d.Sets, vcenter: d.VCenter, targets: d.Targets,
		transfers: d.Transfers, log: d.Log, owner: d.Owner, root: d.Root, tick: d.Tick, now: d.Now,
		externalJobs: d.ExternalJobs, externalKeep: d.ExternalKeep,
	}
	in.fill()
	n := &Node{
		system: newSystem(in.log), permits: in.transfers, cancel: cancel, reaperDone: make(chan struct{}),
		counts: in.counts, failed: make(chan error, 1),
	}
	in.fail = n.fail
	if d.Remote != nil {
		if err := d.Remote.Start(ctx, n.system); err != nil {
			cancel(err)
			return nil, err
		}
	}
	for _, s := range d.Sinks {
		n.sinks = append(n.sinks, newSinkWriter(s))
	}
	writers := append(slices.Clone(n.sinks), newSinkWriter(newStepLog(in.log, d.LogEvery, d.LogAfter, in.now())))
	props, shown := aggregatorProps(in, d.Epoch, d.Reports, writers)
	var err error
	if n.aggregator, err = n.system.Root.SpawnNamed(props, "aggregator"); err != nil {
		return nil, err
	}
	if n.spawner, err = n.system.Root.SpawnNamed(transfersProps(in, n.aggregator), "transfers"); err != nil {
		return nil, err
	}
	if n.jobs, err = n.system.Root.SpawnNamed(jobsProps(in, n.aggregator, n.spawner, d.Reports), "jobs"); err != nil {
		return nil, err
	}
	if n.watched = watchedNodes(d.Nodes, in.now()); len(n.watched) > 0 || anyWatched(d.Reports) {
		if n.watchers, err = n.system.Root.SpawnNamed(watchersProps(in, n.aggregator, n.watched, d.Reports),
			"watchers"); err != nil {
			return nil, err
		}
	}
	go func() {
		defer close(n.reaperDone)
		snapshotReaper{in, n.system, n.jobs}.run(life)
	}()
	select {
	case <-shown:
	case <-life.Done(): // the Aggregator has panicked
	}
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
	d.counts = newCounts()
	if d.externalJobs <= 0 {
		d.externalJobs = StandardExternalJobs
	}
	if d.externalKeep <= 0 {
		d.externalKeep = StandardExternalKeep
	}
}

// fail ends the contexts of all work after the panic of a root actor. Only the first failure is kept.
func (n *Node) fail(err error) {
	n.cancel(job.ErrStopping)
	select {
	case n.failed <- err:
	default:
	}
}

// Failed receives an error of kind Internal if an actor has panicked without which the node can't go on. The copies
// then record what is durable and end; Stop must be called as ever, and the next Start goes on from the journal.
func (n *Node) Failed() <-chan error { return n.failed }

// Stop interrupts all jobs: running copies flush and record what is durable, the journal has everything else, and the
// next Start goes on from there. It returns when nothing runs any more, or with ctx's error.
func (n *Node) Stop(ctx context.Context) error {
	n.cancel(job.ErrStopping)
	var err error
	if n.watchers != nil {
		err = halt(ctx, n.system, n.watchers)
	}
	err = errors.Join(err, halt(ctx, n.system, n.jobs), halt(ctx, n.system, n.spawner),
		halt(ctx, n.system, n.aggregator))
	select {
	case <-n.reaperDone:
	case <-ctx.Done():
		err = errors.Join(err, context.Cause(ctx))
	}
	n.system.Shutdown()
	return err
}

// Submit accepts a job: when it returns, the job is durable. If id is "", the job gets a new one. A key that came
// before with the same body gives the earlier job, and existing. Errors are of kind Invalid, and Conflict (the VM has
// an unfinished job, the id exists, or the key came before with another body).
func (n *Node) Submit(ctx context.Context, spec job.Spec, id job.ID, key, bodyHash string) (
	_ job.ID, existing bool, err error,
) {
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

// Command gives a command to a job. It returns when the command is durable, not when it is carried out. Errors are of
// kind NotFound, and Conflict with the commands that are allowed now. An external job takes cancel and delete; its tool
// goes on.
func (n *Node) Command(ctx context.Context, id job.ID, received job.CommandReceived) error {
	return n.answer(ctx, n.jobs, messages.Command{ID: id, Received: received})
}

// Limit changes limits of a job. They hold for running copies at once. Errors are of kind Invalid, NotFound, and
// Conflict if the job has ended.
func (n *Node) Limit(ctx context.Context, id job.ID, l job.Limited) error {
	if err := l.Check(); err != nil {
		return err
	}
	return n.answer(ctx, n.jobs, messages.Limit{ID: id, Limited: l})
}

// Rehearse makes the Disk actor of a running disk panic. Errors are of kind NotFound, and Conflict if the disk does not
// run.
func (n *Node) Rehearse(ctx context.Context, id job.ID, disk job.DiskID) error {
	return n.answer(ctx, n.jobs, messages.Rehearse{ID: id, Disk: disk})
}

// Limits are the limits of the node, and what is in use.
func (n *Node) Limits() (job.Limits, []job.HostUse) { return n.permits.Limits() }

// SetLimits changes the limits of the node. Limits of bandwidth and of bytes in flight hold for running copies at once.
// All others hold for jobs and attempts that begin later. Errors are of kind Invalid.
func (n *Node) SetLimits(l job.Limits) error {
	if err := l.Check(); err != nil {
		return err
	}
	n.permits.SetLimits(l)
	n.system.Root.Send(n.jobs, messages.Limits{Jobs: l.Jobs})
	return nil
}

// ExternalUpdate takes an update that another copy tool posts. Errors are of kind Invalid, Conflict (the id is that of
// a job of this node), and Unavailable with report.ErrTooManyExternal.
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

// Sinks is the health of each sink, in the order of Deps.Sinks.
func (n *Node) Sinks() []SinkHealth {
	out := make([]SinkHealth, 0, len(n.sinks))
	for _, o := range n.sinks {
		out = append(out, *o.health.Load())
	}
	return out
}
