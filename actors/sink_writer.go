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

// sinkWriter stands before one sink: it holds the newest report of each job that the sink has not taken, lets one call run
// at a time, and knows how the sink is. It belongs to the aggregator, save for its health.
type sinkWriter struct {
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
	writer *sinkWriter
	sent   []report.Report
	err    error
}

func newSinkWriter(s Sink) *sinkWriter {
	w := &sinkWriter{sink: s, pending: map[job.ID]report.Report{}, offered: map[job.ID]report.Report{}}
	if slow, ok := s.(Slow); ok {
		w.every, w.percent = slow.Pace()
	}
	w.health.Store(&SinkHealth{Name: s.Name()})
	return w
}

func (w *sinkWriter) down() bool { return w.health.Load().Down }

// offer keeps a report for the sink, unless it says too little for one that wants few.
func (w *sinkWriter) offer(before, r report.Report) {
	if w.every > 0 {
		was, ok := w.offered[r.JobID]
		if ok && r.ObservedAt.Sub(was.ObservedAt) < w.every && r.OverallPercent < was.OverallPercent+w.percent &&
			!news(before, r) {
			return
		}
		w.offered[r.JobID] = r
	}
	w.pending[r.JobID] = r
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

func (w *sinkWriter) forget(id job.ID) {
	delete(w.pending, id)
	delete(w.offered, id)
	if f, ok := w.sink.(interface{ Forget(id job.ID) }); ok {
		f.Forget(id)
	}
}

// refillDue: sinks outside of this process may have lost what they had.
func (w *sinkWriter) refillDue(now time.Time) bool {
	if _, ok := w.sink.(interface{ Volatile() }); !ok {
		return false
	}
	return now.Sub(w.refilled) >= refillEvery && w.running == nil && !w.down()
}

func (w *sinkWriter) refill(all []report.Report, now time.Time) {
	w.refilled = now
	for _, r := range all {
		if p, ok := w.pending[r.JobID]; !ok || p.Version().Less(r.Version()) {
			w.pending[r.JobID] = r
		}
	}
}

// flush begins a call if there is something to say, none is running, and the sink is not in a pause after a failure.
func (w *sinkWriter) flush(c actor.Context, life context.Context, now time.Time) {
	if w.running != nil || len(w.pending) == 0 || now.Before(w.retryAt) {
		return
	}
	sent := w.batch()
	if _, ok := w.sink.(Immediate); ok {
		_ = w.sink.Publish(life, sent) // never fails
		return
	}
	w.running = begin(c, life, func(ctx context.Context) any {
		ctx, cancel := context.WithTimeout(ctx, sinkDeadline)
		defer cancel()
		return taken{writer: w, sent: sent, err: w.sink.Publish(ctx, sent)}
	}, func(err error) any { return taken{writer: w, sent: sent, err: err} })
}

// batch takes everything that waits, in the order of versions.
func (w *sinkWriter) batch() []report.Report {
	sent := make([]report.Report, 0, len(w.pending))
	for _, r := range w.pending {
		sent = append(sent, r)
	}
	slices.SortFunc(sent, func(x, y report.Report) int {
		if x.Version().Less(y.Version()) {
			return -1
		}
		return 1
	})
	clear(w.pending)
	return sent
}

// taken hears how a call went. What was not taken waits again, unless something newer does. It says whether the
// sink's health changed.
func (w *sinkWriter) taken(m taken, now time.Time, log *slog.Logger) bool {
	w.running = nil
	was := w.down()
	if m.err == nil {
		w.failures, w.retryAt = 0, time.Time{}
		w.health.Store(&SinkHealth{Name: w.sink.Name()})
		if was {
			w.refilled = time.Time{} // it may have come back empty
			log.Info("a sink takes reports again", "sink", w.sink.Name())
		}
		return was
	}
	for _, r := range m.sent {
		if p, ok := w.pending[r.JobID]; !ok || p.Version().Less(r.Version()) {
			w.pending[r.JobID] = r
		}
	}
	w.failures++
	d := min(sinkRetryMost, sinkRetryFirst<<min(w.failures-1, 10))
	w.retryAt = now.Add(d/2 + rand.N(d/2+1)) //nolint:gosec // spreads retries, guards nothing
	since := now
	if was {
		since = w.health.Load().Since
	} else {
		log.Warn("a sink does not take reports; jobs go on", "sink", w.sink.Name(), "err", m.err)
	}
	w.health.Store(&SinkHealth{Name: w.sink.Name(), Down: true, Since: since, Err: fmt.Sprint(m.err)})
	return !was
}

// last gives the sink what waits, once, before the node ends.
func (w *sinkWriter) last(ctx context.Context, log *slog.Logger) {
	if w.running != nil {
		select {
		case <-w.running.done:
		case <-ctx.Done():
			return
		}
	}
	if len(w.pending) == 0 {
		return
	}
	if err := w.sink.Publish(ctx, w.batch()); err != nil {
		log.Warn("a sink did not take the last reports", "sink", w.sink.Name(), "err", err)
	}
}
