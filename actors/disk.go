package actors

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"
	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// Live is the window through which a running copy is watched: the mover opens it, the Disk actor looks in on its tick.
// Both sides may use it at any time.
type Live struct{ running atomic.Pointer[Running] }

// Running is what can be seen of a running copy.
type Running struct {
	Counters  func() job.Counters // cheap; may be called from any goroutine
	Transport string
	SourcePID int
	// somebody else's end, by our own limits; "" if nothing any more. Nil for a copy that has begun
	WaitsFor func() string
}

// Set opens the window.
func (l *Live) Set(r Running) { l.running.Store(&r) }

// disk is one attempt at one disk: to move it, or to read it back. It owns the goroutine that does, reports on a tick,
// and ends with it. Its last word goes to its parent when nobody writes to the target any more.
type disk struct {
	diskDeps
	work   *work
	live   *Live
	ticks  scheduler.CancelFunc
	halted bool
}

// diskDeps is what a disk is born with.
type diskDeps struct {
	slots       *slots
	connections int
	most        *atomic.Int64   // disks of the job at the same time; 0 for no limit
	limiter     *rate.Limiter   // of all disks of the job
	parent      context.Context //nolint:containedctx // the node's life, from which each work derives its own
	mover       Mover
	aggregator  *actor.PID
	task        MoveTask
	verify      job.VerifyMode // "" moves, anything else reads back
	areas       func(context.Context) (job.Extents, bool, error)
	tick        time.Duration
}

type (
	tick    struct{}
	diskEnd struct {
		late
		counters job.Counters
		err      error
	}
)

func diskProps(d diskDeps) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor { return &disk{diskDeps: d, live: &Live{}} })
}

func (d *disk) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		d.start(c)
	case tick:
		d.report(c)
	case messages.Stop:
		d.halted = true
		d.work.stop()
	case messages.Panic:
		panic("rehearsed")
	case diskEnd:
		d.ended(c, m)
	case *actor.Stopping, *actor.Restarting:
		d.leave()
	}
}

func (d *disk) start(c actor.Context) {
	if d.verify != "" {
		d.live.Set(Running{Counters: func() job.Counters { return d.task.Disk.Counters }})
	}
	d.ticks = scheduler.NewTimerScheduler(c.ActorSystem().Root).SendRepeatedly(d.tick, d.tick, c.Self(), tick{})
	d.work = begin(c, d.parent, d.run, func(err error) any { return diskEnd{err: err, counters: d.seen().Counters()} })
}

// run is the whole attempt.
func (d *disk) run(ctx context.Context) any {
	t := d.task
	areas, known, err := d.areas(ctx)
	if err != nil {
		return diskEnd{err: err, counters: d.task.Disk.Counters}
	}
	t.Areas, t.AreasKnown = areas, known
	place := d.place(t)
	if t.Share, err = d.wait(ctx, place); err != nil {
		return diskEnd{err: err, counters: d.task.Disk.Counters}
	}
	defer d.slots.release(place)
	var n job.Counters
	if d.verify != "" {
		n, err = d.mover.Verify(ctx, t, d.verify, d.live)
	} else {
		n, err = d.mover.Move(ctx, t, d.live)
	}
	return diskEnd{counters: n, err: err}
}

// place is what the attempt takes up.
func (d *disk) place(t MoveTask) *lease {
	return &lease{
		job: t.Job, host: t.VM.Host, connections: d.connections, limiter: d.limiter,
		jobDisks: func() int { return int(d.most.Load()) },
	}
}

// wait waits until the attempt may begin, and shows for what.
func (d *disk) wait(ctx context.Context, place *lease) (Share, error) {
	last := d.task.Disk.Counters
	d.live.Set(Running{Counters: func() job.Counters {
		return last
	}, WaitsFor: func() string { return d.slots.waits(place) }})
	return d.slots.acquire(ctx, place)
}

func (d *disk) seen() Running {
	if r := d.live.running.Load(); r != nil {
		return *r
	}
	last := d.task.Disk.Counters
	return Running{Counters: func() job.Counters { return last }}
}

// report sends the newest numbers. It is silent before the copy has begun.
func (d *disk) report(c actor.Context) {
	r := d.live.running.Load()
	if r == nil {
		return
	}
	p := report.Progress{
		Job: d.task.Job, Disk: d.task.Disk.Disk.ID, Round: d.task.Round, Attempt: d.task.Disk.Attempt,
		Counters: r.Counters(), Transport: r.Transport, SourcePID: r.SourcePID,
	}
	if r.WaitsFor != nil {
		if p.WaitsFor = r.WaitsFor(); p.WaitsFor == "" {
			return // it is about to begin
		}
	}
	c.Send(d.aggregator, messages.Progress{Progress: p})
}

func (d *disk) ended(c actor.Context, m diskEnd) {
	d.ticks()
	id, attempt := d.task.Disk.Disk.ID, d.task.Disk.Attempt
	var ev job.Event
	switch {
	case m.err == nil && d.verify != "":
		ev = job.DiskVerified{Disk: id, Attempt: attempt, Counters: m.counters}
	case m.err == nil:
		ev = job.DiskMoved{Disk: id, Attempt: attempt, Counters: m.counters}
	default:
		ev = d.fell(m)
	}
	// The parent stops us when it has heard this: word of an actor's end overtakes what that actor has said.
	c.Request(c.Parent(), messages.DiskEnded{Disk: id, Event: ev})
}

// fell says how the attempt failed. What came after a halt is its answer, whatever the copy says of it.
func (d *disk) fell(m diskEnd) job.AttemptFailed {
	kind := job.KindOf(m.err)
	if d.halted {
		kind = job.Cancelled
	}
	return job.AttemptFailed{
		Disk: d.task.Disk.Disk.ID, Attempt: d.task.Disk.Attempt, Counters: m.counters,
		Kind: kind, Message: fmt.Sprint(m.err), Next: job.NextOf(m.err),
	}
}

// leave returns only when nothing of this attempt runs any more.
func (d *disk) leave() {
	if d.ticks != nil {
		d.ticks()
	}
	d.work.halt()
}
