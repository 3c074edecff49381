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

// sinkWriter writes reports to one sink, one call at a time. It keeps the newest report of each job that the sink has
// not taken, and the health of the sink. It belongs to the Aggregator; only its health may be read by any goroutine.
type sinkWriter struct {
	sink     Sink
	pending  map[job.ID]report.Report
	running  *work // the call that runs now; nil for none
	failures int   // in a row
	retryAt  time.Time
	refilled time.Time
	every    time.Duration            // of a Slow sink: least time between two reports of a job with new numbers only,
	percent  float64                  // or least growth of its overall percent
	offered  map[job.ID]report.Report // last ones to a Slow sink
	health   atomic.Pointer[SinkHealth]
}

// SinkHealth says whether a sink takes reports.
type SinkHealth struct {
	Name  string
	Down  bool
	Since time.Time // when it went down; zero if it is not down
	Err   string    // of the last call; "" if it is not down
}

// Slow is a Sink that wants few reports of a job while only its numbers change: one at each interval, and one whenever
// the overall percent has grown by percent.
type Slow interface {
	Sink
	Pace() (every time.Duration, percent float64)
}

// Immediate is a Sink in this process that never blocks and never fails. It has a report before the caller that caused
// the report is answered, so that the caller's next request finds the change.
type Immediate interface {
	Sink
	Immediate()
}

const (
	sinkRetryFirst = 250 * time.Millisecond
	sinkRetryMost  = 4 * time.Second
	sinkDeadline   = 5 * time.Second // of one call
)

// published has the result of a call to a sink.
type published struct {
	noDeadLetterLog
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

// offer keeps a report for the sink. A Slow sink does not get each report.
func (w *sinkWriter) offer(before, r report.Report) {
	if w.every > 0 {
		was, ok := w.offered[r.JobID]
		if ok && r.ObservedAt.Sub(was.ObservedAt) < w.every && r.OverallPercent < was.OverallPercent+w.percent &&
			!changedState(before, r) {
			return
		}
		w.offered[r.JobID] = r
	}
	w.pending[r.JobID] = r
}

// changedState says whether more than numbers changed between two reports.
func changedState(a, b report.Report) bool {
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

// forget drops a job that was deleted, also from the sink if it has a method for that.
func (w *sinkWriter) forget(id job.ID) {
	delete(w.pending, id)
	delete(w.offered, id)
	if f, ok := w.sink.(interface{ Forget(id job.ID) }); ok {
		f.Forget(id)
	}
}

// refillDue says whether a volatile sink must get all reports again. It may have lost them.
func (w *sinkWriter) refillDue(now time.Time) bool {
	if _, ok := w.sink.(interface{ Volatile() }); !ok {
		return false
	}
	return now.Sub(w.refilled) >= refillEvery && w.running == nil && !w.down()
}

// refill keeps these reports for the sink.
func (w *sinkWriter) refill(all []report.Report, now time.Time) {
	w.refilled = now
	for _, r := range all {
		if p, ok := w.pending[r.JobID]; !ok || p.Version().Less(r.Version()) {
			w.pending[r.JobID] = r
		}
	}
}

// flush begins a call if reports are pending, no call runs, and the pause after a failure is over.
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
		return published{writer: w, sent: sent, err: w.sink.Publish(ctx, sent)}
	}, func(err error) any { return published{writer: w, sent: sent, err: err} })
}

// batch takes all pending reports, in the order of their versions.
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

// published takes the result of a call. Reports that were not taken are pending again, unless newer ones are. It says
// whether the sink's health changed.
func (w *sinkWriter) published(m published, now time.Time, log *slog.Logger) bool {
	w.running = nil
	was := w.down()
	if m.err == nil {
		w.failures, w.retryAt = 0, time.Time{}
		w.health.Store(&SinkHealth{Name: w.sink.Name()})
		if was {
			w.refilled = time.Time{} // it may have lost its reports
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

// publishLast writes the pending reports once, before the node ends. It waits for the running call and for its own,
// until ctx ends.
func (w *sinkWriter) publishLast(ctx context.Context, log *slog.Logger) {
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
