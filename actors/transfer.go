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

// transfer is the actor of one attempt at the bytes of one disk: it copies them, or reads them back, in a goroutine
// that it owns. It sends Progress to the Aggregator on a tick, and TransferEnded to its Disk, which then stops it. It
// also ends when its Disk does.
type transfer struct {
	transferDeps
	work    *work
	view    *atomic.Pointer[job.TransferView] // set by the goroutine; nil before it has begun
	ticks   scheduler.CancelFunc
	silence *silence // of the calls to the vCenter
	stopped bool     // Stop was received
}

// transferDeps is what a transfer is made of.
type transferDeps struct {
	*deps
	aggregator *actor.PID
	disk       *actor.PID
	task       job.TransferTask
}

type (
	tick struct{} // send progress
	// transferEnd has the result of the goroutine.
	transferEnd struct {
		noDeadLetterLog
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
	defer keepStack()
	switch m := c.Message().(type) {
	case *actor.Started:
		t.start(c)
	case tick:
		t.report(c)
	case listen:
		t.silence.look(c)
	case messages.Stop:
		t.stopped = true
		t.work.stop()
	case transferEnd:
		t.ended(c, m)
	case *actor.Terminated:
		if m.Who.Equal(t.disk) { // no actor would take TransferEnded
			c.Stop(c.Self())
		}
	case *actor.Stopping, *actor.Restarting:
		t.leave()
	}
}

// start watches the Disk, and begins the copy or the verification.
func (t *transfer) start(c actor.Context) {
	c.Watch(t.disk)
	timer := scheduler.NewTimerScheduler(c.ActorSystem().Root)
	t.ticks = timer.SendRepeatedly(t.tick, t.tick, c.Self(), tick{})
	heard := &silence{aggregator: t.aggregator, job: t.task.Job, disk: t.task.Disk.Disk.ID}
	heard.listenTo(c)
	t.silence = heard
	t.work = begin(c, t.life, func(ctx context.Context) any {
		n, err := t.transfers.Run(heard.calls.In(ctx), t.task, func(v job.TransferView) { t.view.Store(&v) })
		return transferEnd{counters: n, err: err}
	}, func(err error) any { return transferEnd{err: err, counters: t.seen()} })
}

// seen is how far the attempt came, by its view.
func (t *transfer) seen() job.Counters {
	if v := t.view.Load(); v != nil {
		return v.Counters()
	}
	return t.task.Disk.Counters
}

// report sends the progress to the Aggregator. It sends none before the goroutine has set its view.
func (t *transfer) report(c actor.Context) {
	v := t.view.Load()
	if v == nil {
		return
	}
	p := report.Progress{
		Job: t.task.Job, Disk: t.task.Disk.Disk.ID, Round: t.task.Round, Attempt: t.task.Disk.Attempt,
		At: t.now(), Counters: v.Counters(), Transport: v.Transport, SourcePID: v.SourcePID,
	}
	if v.Silence != nil {
		p.SourceSilence, p.TargetSilence = v.Silence()
	}
	if v.WaitsFor != nil {
		if p.WaitsFor = v.WaitsFor(); p.WaitsFor == "" {
			return // its wait is over, and its numbers follow
		}
	}
	c.Send(t.aggregator, messages.Progress{Progress: p})
}

// ended sends the result to the Disk. An error after Stop is of kind Cancelled, whatever its own kind is.
func (t *transfer) ended(c actor.Context, m transferEnd) {
	t.ticks()
	t.silence.stop()
	end := messages.TransferEnded{Counters: m.counters}
	if m.err != nil {
		end.Cause = &job.Failure{Kind: job.KindOf(m.err), Message: fmt.Sprint(m.err), Next: job.NextOf(m.err)}
		end.What, end.Since = job.PeerOf(m.err), t.silence.since(m.err)
		if t.stopped {
			end.Cause.Kind = job.Cancelled
		}
	}
	c.Request(t.disk, end)
}

// leave stops the goroutine and waits for its end.
func (t *transfer) leave() {
	if t.ticks != nil {
		t.ticks()
	}
	t.silence.stop()
	t.work.halt()
}
