package actors

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// outlet stands before one sink: it holds the newest report of each job that the sink has not taken, lets one call run
// at a time, and knows how the sink is. It belongs to the aggregator, save for its health.
type outlet struct {
	sink     Sink
	pending  map[job.ID]report.Report
	running  *work
	failures int
	retryAt  time.Time
	refilled time.Time
	every    time.Duration // least time between two reports of a job that say nothing new but bytes
	percent  float64       // or so many percent
	offered  map[job.ID]report.Report
	health   atomic.Pointer[SinkHealth]
}

// SinkHealth is how a sink is.
type SinkHealth struct {
	Name  string
	Down  bool
	Since time.Time // of Down
	Err   string
}

// Slow is a Sink that wants a report of a job only every so often, unless its phase, status or health changed.
type Slow interface {
	Sink
	Pace() (every time.Duration, percent float64)
}

// Immediate is a Sink within this process that never blocks and never fails. It has taken a report before anybody is
// answered, so that who asks again finds what was just said.
type Immediate interface {
	Sink
	Immediate()
}

const (
	sinkRetryFirst = 250 * time.Millisecond
	sinkRetryMost  = 4 * time.Second
	sinkDeadline   = 5 * time.Second
)

type taken struct {
	late
	outlet *outlet
	sent   []report.Report
	err    error
}

func newOutlet(s Sink) *outlet {
	o := &outlet{sink: s, pending: map[job.ID]report.Report{}, offered: map[job.ID]report.Report{}}
	if slow, ok := s.(Slow); ok {
		o.every, o.percent = slow.Pace()
	}
	o.health.Store(&SinkHealth{Name: s.Name()})
	return o
}

func (o *outlet) down() bool { return o.health.Load().Down }

// offer keeps a report for the sink, unless it says too little for one that wants few.
func (o *outlet) offer(before, r report.Report) {
	if o.every > 0 {
		was, ok := o.offered[r.JobID]
		if ok && r.ObservedAt.Sub(was.ObservedAt) < o.every && r.OverallPercent < was.OverallPercent+o.percent &&
			!news(before, r) {
			return
		}
		o.offered[r.JobID] = r
	}
	o.pending[r.JobID] = r
}

// news says whether more than numbers changed.
func news(a, b report.Report) bool {
	if a.Phase != b.Phase || a.Status != b.Status || !slices.Equal(a.Health, b.Health) || len(a.Disks) != len(b.Disks) {
		return true
	}
	for i := range a.Disks {
		if a.Disks[i].Status != b.Disks[i].Status || a.Disks[i].Attempt != b.Disks[i].Attempt {
			return true
		}
	}
	return false
}

func (o *outlet) forget(id job.ID) {
	delete(o.pending, id)
	delete(o.offered, id)
	if f, ok := o.sink.(interface{ Forget(id job.ID) }); ok {
		f.Forget(id)
	}
}

// refillDue: sinks outside of this process may have lost what they had.
func (o *outlet) refillDue(now time.Time) bool {
	if _, ok := o.sink.(interface{ Volatile() }); !ok {
		return false
	}
	return now.Sub(o.refilled) >= refillEvery && o.running == nil && !o.down()
}

func (o *outlet) refill(all []report.Report, now time.Time) {
	o.refilled = now
	for _, r := range all {
		if p, ok := o.pending[r.JobID]; !ok || p.Version().Less(r.Version()) {
			o.pending[r.JobID] = r
		}
	}
}

// flush begins a call if there is something to say, none is running, and the sink is not in a pause after a failure.
func (o *outlet) flush(c actor.Context, life context.Context, now time.Time) {
	if o.running != nil || len(o.pending) == 0 || now.Before(o.retryAt) {
		return
	}
	sent := o.batch()
	if _, ok := o.sink.(Immediate); ok {
		_ = o.sink.Publish(life, sent) // never fails
		return
	}
	o.running = begin(c, life, func(ctx context.Context) any {
		ctx, cancel := context.WithTimeout(ctx, sinkDeadline)
		defer cancel()
		return taken{outlet: o, sent: sent, err: o.sink.Publish(ctx, sent)}
	}, func(err error) any { return taken{outlet: o, sent: sent, err: err} })
}

// batch takes everything that waits, in the order of versions.
func (o *outlet) batch() []report.Report {
	sent := make([]report.Report, 0, len(o.pending))
	for _, r := range o.pending {
		sent = append(sent, r)
	}
	slices.SortFunc(sent, func(x, y report.Report) int {
		if x.Version().Less(y.Version()) {
			return -1
		}
		return 1
	})
	clear(o.pending)
	return sent
}

// taken hears how a call went. What was not taken waits again, unless something newer does. It says whether the
// sink's health changed.
func (o *outlet) taken(m taken, now time.Time, log *slog.Logger) bool {
	o.running = nil
	was := o.down()
	if m.err == nil {
		o.failures, o.retryAt = 0, time.Time{}
		o.health.Store(&SinkHealth{Name: o.sink.Name()})
		if was {
			o.refilled = time.Time{} // it may have come back empty
			log.Info("a sink takes reports again", "sink", o.sink.Name())
		}
		return was
	}
	for _, r := range m.sent {
		if p, ok := o.pending[r.JobID]; !ok || p.Version().Less(r.Version()) {
			o.pending[r.JobID] = r
		}
	}
	o.failures++
	d := min(sinkRetryMost, sinkRetryFirst<<min(o.failures-1, 10))
	o.retryAt = now.Add(d/2 + rand.N(d/2+1)) //nolint:gosec // spreads retries, guards nothing
	since := now
	if was {
		since = o.health.Load().Since
	} else {
		log.Warn("a sink does not take reports; jobs go on", "sink", o.sink.Name(), "err", m.err)
	}
	o.health.Store(&SinkHealth{Name: o.sink.Name(), Down: true, Since: since, Err: fmt.Sprint(m.err)})
	return !was
}

// last gives the sink what waits, once, before the node ends.
func (o *outlet) last(ctx context.Context, log *slog.Logger) {
	if o.running != nil {
		select {
		case <-o.running.done:
		case <-ctx.Done():
			return
		}
	}
	if len(o.pending) == 0 {
		return
	}
	if err := o.sink.Publish(ctx, o.batch()); err != nil {
		log.Warn("a sink did not take the last reports", "sink", o.sink.Name(), "err", err)
	}
}
