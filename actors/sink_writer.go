package actors

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
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
	now      []report.Report           // of an Immediate sink, in the place of pending
	gone     map[job.ID][]*farewell    // jobs that a Forgetter must forget before it takes more reports
	erased   map[job.ID]report.Deleted // jobs that an Eraser must erase
	waiting  waiting                   // of a Slow sink: reports of external jobs
	running  *work                     // the call that runs now; nil for none
	call     *published                // its result, once it is done
	failures int                       // in a row
	retryAt  time.Time
	refilled time.Time
	filling  bool                     // of a Confirmer: a refill is not taken yet
	every    time.Duration            // of a Slow sink: least time between two reports of a job with new numbers only,
	percent  float64                  // or least growth of its overall percent
	offered  map[job.ID]offered       // last ones to a Slow sink
	early    map[job.ID]report.Report // newest ones that came to a Slow sink before their time
	health   atomic.Pointer[SinkHealth]
}

// offered is what a Slow sink's pace is counted from.
type offered struct {
	at      time.Time
	percent float64
}

// SinkHealth says whether a sink takes reports.
type SinkHealth struct {
	Name  string
	Down  bool
	Since time.Time // when it went down; zero if it is not down
	Err   string    // of the last call; "" if it is not down
	Kind  job.Kind  // of that error
	Next  string    // what a person can do; "" for nothing
}

// Slow is a Sink that wants few reports of a job while only its numbers change: one at each interval, and one whenever
// the overall percent has grown by percent. Of an external job it gets even fewer: one every 30 s, and one within a
// second after more than numbers changed.
type Slow interface {
	Sink
	Pace() (every time.Duration, percent float64)
}

// ExternallyPaced is a Slow sink that says how long a report of an external job waits: one with new numbers only, and
// one with more than that. With many jobs those with new numbers wait longer, so that they cost a bounded share.
type ExternallyPaced interface {
	Slow
	ExternalPace() (numbers, state time.Duration)
}

// Immediate is a Sink in this process that never blocks and never fails. It has a report before the caller that caused
// the report is answered, so that the caller's next request finds the change. If it has a method Forget, that gets each
// deletion in the same way.
type Immediate interface {
	Sink
	Immediate()
}

// Forgetter is a Sink whose reports outlive this process, and so may come back after a restart.
type Forgetter interface {
	Sink
	// ForgetReports drops the reports of deleted jobs, and returns when that is durable. It is no error if there are
	// none. A job of this node that exists under such an id keeps its report.
	ForgetReports(ctx context.Context, ids []job.ID) error
}

// Eraser is a Sink that shows reports to other programs, which must see that a job was deleted.
type Eraser interface {
	Sink
	// Erase removes deleted jobs. A job with a newer report stays, and a later Publish of an older report changes
	// nothing.
	Erase(ctx context.Context, deleted []report.Deleted) error
}

// Confirmer is a volatile Sink that tells its readers whether it has everything.
type Confirmer interface {
	Sink
	// Confirm says that the sink has the newest report of every job, and will be told so again within this time. 0
	// takes that back: no reports will come for now.
	Confirm(ctx context.Context, within time.Duration) error
}

const (
	sinkRetryFirst = 250 * time.Millisecond
	sinkRetryMost  = 4 * time.Second
	sinkDeadline   = 5 * time.Second // of one call
	sinkBatch      = 500             // reports or deleted jobs in one call
	confirmWithin  = 3 * refillEvery // of a Confirmer
)

// published has the result of a call to a sink.
type published struct {
	noDeadLetterLog
	writer *sinkWriter
	sent   []report.Report
	gone   map[job.ID][]*farewell
	erased map[job.ID]report.Deleted
	filled bool // what was sent ends a refill of a Confirmer
	err    error
}

// farewell answers the caller who deleted a job when all sinks have forgotten it, or when one could not.
type farewell struct {
	reply func(error) // nil for none
	left  int         // sinks
}

// done says that one sink has forgotten the job, or has tried.
func (f *farewell) done(err error) {
	if f.left--; f.reply != nil && (err != nil || f.left < 0) {
		f.reply(err)
		f.reply = nil
	}
}

func newSinkWriter(s Sink) *sinkWriter {
	w := &sinkWriter{
		sink: s, pending: map[job.ID]report.Report{}, offered: map[job.ID]offered{}, early: map[job.ID]report.Report{},
		gone: map[job.ID][]*farewell{}, erased: map[job.ID]report.Deleted{},
		waiting: waiting{jobs: map[job.ID]*waits{}, numbers: waitNumbers, state: waitState},
	}
	if slow, ok := s.(Slow); ok {
		w.every, w.percent = slow.Pace()
	}
	if outside, ok := s.(ExternallyPaced); ok {
		w.waiting.numbers, w.waiting.state = outside.ExternalPace()
		w.waiting.each = waitEach
	}
	w.health.Store(&SinkHealth{Name: s.Name()})
	return w
}

func (w *sinkWriter) down() bool { return w.health.Load().Down }

// offer keeps a report for the sink. A Slow sink does not get each report, but the newest one when its time has come.
func (w *sinkWriter) offer(before, r report.Report) {
	if w.immediate() {
		w.now = append(w.now, r) // versions ascend
		return
	}
	if w.every > 0 && r.Origin == report.External && r.Node == "" {
		// The first report is no hurry: if it is lost, the tool's next update makes the job again.
		w.waiting.add(r, before.JobID != "" && changedState(before, r))
		return
	}
	if w.every > 0 {
		was, ok := w.offered[r.JobID]
		if ok && r.ObservedAt.Sub(was.at) < w.every && r.OverallPercent < was.percent+w.percent &&
			!changedState(before, r) {
			w.early[r.JobID] = r
			return
		}
		w.offered[r.JobID] = offered{r.ObservedAt, r.OverallPercent}
		delete(w.early, r.JobID)
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

// ripe makes the early reports pending whose job's last one is at least that old.
func (w *sinkWriter) ripe(now time.Time, old time.Duration) {
	for id, r := range w.early {
		if now.Sub(w.offered[id].at) >= old {
			w.pending[id] = r
			w.offered[id] = offered{now, r.OverallPercent}
			delete(w.early, id)
		}
	}
}

// immediate says whether the sink has each report at once.
func (w *sinkWriter) immediate() bool {
	_, ok := w.sink.(Immediate)
	return ok
}

// forget drops a job that was deleted, also from a Forgetter. all is told when the sink's next call has done it.
func (w *sinkWriter) forget(id job.ID, all *farewell) {
	delete(w.pending, id)
	w.now = slices.DeleteFunc(w.now, func(r report.Report) bool { return r.JobID == id })
	delete(w.offered, id)
	delete(w.early, id)
	w.waiting.remove(id)
	if _, ok := w.sink.(Forgetter); ok {
		all.left++
		w.gone[id] = append(w.gone[id], all)
	}
}

// erase keeps a deletion for the sink's next call. An Immediate sink has it at once, after all reports of before it.
func (w *sinkWriter) erase(life context.Context, d report.Deleted) {
	if _, ok := w.sink.(Eraser); ok {
		w.erased[d.JobID] = d
	}
	if f, ok := w.sink.(interface{ Forget(d report.Deleted) }); ok {
		w.publishNow(life)
		f.Forget(d)
	}
}

// publishNow gives an Immediate sink its reports.
func (w *sinkWriter) publishNow(life context.Context) {
	if len(w.now) > 0 {
		_ = w.sink.Publish(life, w.now) // never fails
		w.now = nil
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
	_, w.filling = w.sink.(Confirmer)
	for _, r := range all {
		if p, ok := w.pending[r.JobID]; !ok || p.Version().Less(r.Version()) {
			w.pending[r.JobID] = r
		}
	}
}

// flush begins a call if there is something to do, no call runs, and the pause after a failure is over.
func (w *sinkWriter) flush(c actor.Context, life context.Context, now time.Time) {
	if w.immediate() {
		w.publishNow(life)
		return
	}
	w.waiting.ripe(now, w.pending)
	w.ripe(now, w.every)
	if w.running != nil || w.idle() || now.Before(w.retryAt) {
		return
	}
	m := w.next()
	w.call = &m
	w.running = begin(c, life, func(ctx context.Context) any {
		ctx, cancel := context.WithTimeout(ctx, sinkDeadline)
		defer cancel()
		m.err = m.call(ctx)
		return m
	}, func(err error) any { m.err = err; return m })
}

// call makes the call of the sink: first it forgets, then it takes reports, which may be of the same jobs made again.
func (m published) call(ctx context.Context) error {
	if f, ok := m.writer.sink.(Forgetter); ok && len(m.gone) > 0 {
		if err := f.ForgetReports(ctx, slices.Sorted(maps.Keys(m.gone))); err != nil {
			return err
		}
	}
	if e, ok := m.writer.sink.(Eraser); ok && len(m.erased) > 0 {
		deleted := slices.SortedFunc(maps.Values(m.erased), func(x, y report.Deleted) int { return int(x.Seq - y.Seq) })
		if err := e.Erase(ctx, deleted); err != nil {
			return err
		}
	}
	if len(m.sent) > 0 {
		if err := m.writer.sink.Publish(ctx, m.sent); err != nil {
			return err
		}
	}
	if f, ok := m.writer.sink.(Confirmer); ok && m.filled {
		return f.Confirm(ctx, confirmWithin)
	}
	return nil
}

func (w *sinkWriter) idle() bool { return len(w.pending)+len(w.gone)+len(w.erased) == 0 && !w.filling }

// next takes what the sink's next call must do.
func (w *sinkWriter) next() published {
	m := published{writer: w, gone: w.gone, erased: w.erased, sent: w.batch(sinkBatch)}
	w.gone, w.erased = map[job.ID][]*farewell{}, map[job.ID]report.Deleted{}
	m.filled = w.filling && len(w.pending) == 0
	w.filling = w.filling && !m.filled
	return m
}

// batch takes pending reports, at most that many, in the order of their versions. Jobs of this node come first.
func (w *sinkWriter) batch(most int) []report.Report {
	sent := make([]report.Report, 0, min(most, len(w.pending)))
	take := func(own bool) {
		for id, r := range w.pending {
			if len(sent) < most && (r.Origin != report.External) == own {
				sent = append(sent, r)
				delete(w.pending, id)
			}
		}
	}
	take(true)
	take(false)
	slices.SortFunc(sent, func(x, y report.Report) int {
		if x.Version().Less(y.Version()) {
			return -1
		}
		return 1
	})
	return sent
}

// published takes the result of a call. What was not done is pending again, unless something newer is.
func (w *sinkWriter) published(m published, now time.Time, log *slog.Logger) {
	w.running = nil
	was := w.down()
	for _, all := range m.gone {
		for _, f := range all {
			f.done(m.err)
		}
	}
	if m.err == nil {
		w.failures, w.retryAt = 0, time.Time{}
		w.health.Store(&SinkHealth{Name: w.sink.Name()})
		if was {
			w.refilled = time.Time{} // it may have lost its reports
			log.Info("a sink takes reports again", "sink", w.sink.Name())
		}
		return
	}
	w.again(m)
	w.failures++
	d := min(sinkRetryMost, sinkRetryFirst<<min(w.failures-1, 10))
	w.retryAt = now.Add(d/2 + rand.N(d/2+1)) //nolint:gosec // spreads retries, guards nothing
	since, before := now, w.health.Load()
	if was {
		since = before.Since
	}
	if !was || job.KindOf(m.err) != before.Kind {
		log.Warn("a sink does not take reports; jobs go on", "sink", w.sink.Name(), "err", m.err,
			"next", job.NextOf(m.err))
	}
	w.health.Store(&SinkHealth{
		Name: w.sink.Name(), Down: true, Since: since, Err: fmt.Sprint(m.err), Kind: job.KindOf(m.err),
		Next: job.NextOf(m.err),
	})
}

// again makes all that a call did not do pending again. A job that was deleted meanwhile does not come back.
func (w *sinkWriter) again(m published) {
	w.filling = w.filling || m.filled
	for _, r := range m.sent {
		_, gone := w.gone[r.JobID]
		_, erased := w.erased[r.JobID]
		if p, ok := w.pending[r.JobID]; !gone && !erased && (!ok || p.Version().Less(r.Version())) {
			w.pending[r.JobID] = r
		}
	}
	for id := range m.gone {
		w.gone[id] = append(w.gone[id], &farewell{})
	}
	for id, d := range m.erased {
		if _, newer := w.erased[id]; !newer {
			w.erased[id] = d
		}
	}
}

// publishLast writes the pending reports once, before the node ends. It waits for the running call and for its own,
// until ctx ends. What the running call did not do, as the end of the node cut it off, is pending again. A Confirmer
// learns that nothing more comes.
func (w *sinkWriter) publishLast(ctx context.Context, now time.Time, log *slog.Logger) {
	if w.running != nil {
		select {
		case <-w.running.done:
			w.published(*w.call, now, log)
		case <-ctx.Done():
			return
		}
	}
	w.publishNow(ctx)
	w.waiting.all(w.pending)
	w.filling = false
	w.ripe(now, 0)
	for !w.idle() {
		m := w.next()
		if err := m.call(ctx); err != nil {
			log.Warn("a sink did not take the last reports", "sink", w.sink.Name(), "err", err)
			return
		}
	}
	if f, ok := w.sink.(Confirmer); ok {
		if err := f.Confirm(ctx, 0); err != nil {
			log.Warn("a sink still says that it has everything", "sink", w.sink.Name(), "err", err)
		}
	}
}
