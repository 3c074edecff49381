package actors

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// transfer is one attempt at the bytes of one disk: it copies them, or reads them back. It owns the goroutine that does,
// sends Progress to the Aggregator on a tick, and its end to its Disk, which then stops it. When its Disk ends, it ends.
type transfer struct {
	transferDeps
	work    *work
	view    *atomic.Pointer[job.TransferView] // nil before the attempt shows itself
	ticks   scheduler.CancelFunc
	stopped bool
}

// transferDeps is what a transfer is born with.
type transferDeps struct {
	*deps
	aggregator *actor.PID
	disk       *actor.PID
	task       job.TransferTask
}

type (
	tick        struct{}
	transferEnd struct {
		late
		counters job.Counters
		err      error
	}
)

func transferProps(d transferDeps) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor {
		return &transfer{transferDeps: d, view: &atomic.Pointer[job.TransferView]{}}
	})
}

func (t *transfer) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		t.start(c)
	case tick:
		t.report(c)
	case messages.Stop:
		t.stopped = true
		t.work.stop()
	case transferEnd:
		t.ended(c, m)
	case *actor.Terminated: // of its Disk: nothing is left that could take its end
		c.Stop(c.Self())
	case *actor.Stopping, *actor.Restarting:
		t.leave()
	}
}

func (t *transfer) start(c actor.Context) {
	c.Watch(t.disk)
	timer := scheduler.NewTimerScheduler(c.ActorSystem().Root)
	t.ticks = timer.SendRepeatedly(t.tick, t.tick, c.Self(), tick{})
	t.work = begin(c, t.life, func(ctx context.Context) any {
		n, err := t.transfers.Run(ctx, t.task, func(v job.TransferView) { t.view.Store(&v) })
		return transferEnd{counters: n, err: err}
	}, func(err error) any { return transferEnd{err: err, counters: t.seen()} })
}

// seen is how far the attempt came, as far as it has shown.
func (t *transfer) seen() job.Counters {
	if v := t.view.Load(); v != nil {
		return v.Counters()
	}
	return t.task.Disk.Counters
}

// report sends the newest numbers. It sends none before the copy has begun.
func (t *transfer) report(c actor.Context) {
	v := t.view.Load()
	if v == nil {
		return
	}
	p := report.Progress{
		Job: t.task.Job, Disk: t.task.Disk.Disk.ID, Round: t.task.Round, Attempt: t.task.Disk.Attempt,
		Counters: v.Counters(), Transport: v.Transport, SourcePID: v.SourcePID,
	}
	if v.WaitsFor != nil {
		if p.WaitsFor = v.WaitsFor(); p.WaitsFor == "" {
			return // it is about to begin
		}
	}
	c.Send(t.aggregator, messages.Progress{Progress: p})
}

// ended sends the end of the attempt to its Disk. What ends after a stop was asked for counts as stopped, whatever the
// copy says.
func (t *transfer) ended(c actor.Context, m transferEnd) {
	t.ticks()
	end := messages.TransferEnded{Counters: m.counters}
	if m.err != nil {
		end.Cause = &job.Failure{Kind: job.KindOf(m.err), Message: fmt.Sprint(m.err), Next: job.NextOf(m.err)}
		if t.stopped {
			end.Cause.Kind = job.Cancelled
		}
	}
	c.Request(t.disk, end)
}

// leave returns only when nothing of this attempt runs any more.
func (t *transfer) leave() {
	if t.ticks != nil {
		t.ticks()
	}
	t.work.halt()
}
