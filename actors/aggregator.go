package actors

import (
	"context"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// aggregator is the actor Aggregator. It keeps the newest state and progress of each job, makes reports of them, and
// offers the reports to the sinks. It waits for no sink while the node runs. A report that a sink has not taken is
// replaced by a newer one of the same job, so memory is bounded by the number of jobs.
type aggregator struct {
	*deps
	epoch   int64
	seq     int64
	jobs    map[job.ID]*tracked
	writers []*sinkWriter
	ticks   []scheduler.CancelFunc
}

// tracked is one job and its builder: own for a job of this node, external for a job of another copy tool. Both are nil
// for a job of before the restart, until its actor sends its state.
type tracked struct {
	own      *report.Builder
	external *report.ExternalBuilder
	last     report.Report // as it was published
	dirty    bool          // a report is due
}

type (
	publish struct{} // make reports of the jobs that changed
	review  struct{} // find jobs whose report changes by time alone, and refill sinks
)

const (
	reviewEvery = time.Second
	// A volatile sink gets the reports of all jobs again at this interval, in case that it has lost them.
	refillEvery = 5 * time.Second
	// A job that ended longer ago is left out.
	refillEnded = 72 * time.Hour
	refillMost  = 1000 // jobs, the newest reports first
)

func aggregatorProps(d *deps, epoch int64, last []report.Report, writers []*sinkWriter) *actor.Props {
	a := &aggregator{deps: d, epoch: epoch, jobs: map[job.ID]*tracked{}, writers: writers}
	for _, r := range last {
		a.restore(r)
	}
	return rootProps(d, aggregatorKind, a)
}

// restore takes the last report of a job before the restart.
func (a *aggregator) restore(r report.Report) {
	f := &tracked{last: r, dirty: true}
	if r.Origin == report.External {
		f.external = report.NewExternalBuilder(r.JobID, &r, a.now())
	}
	a.jobs[r.JobID] = f
}

func (a *aggregator) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		timer := scheduler.NewTimerScheduler(c.ActorSystem().Root)
		a.ticks = append(a.ticks, timer.SendRepeatedly(a.tick, a.tick, c.Self(), publish{}),
			timer.SendRepeatedly(reviewEvery, reviewEvery, c.Self(), review{}))
	case messages.Changed:
		a.changed(c, m.State)
	case messages.Progress:
		a.progress(m.Progress)
	case messages.Silence:
		a.silence(m.Silence)
	case messages.External:
		a.external(c, m)
	case messages.Crashed:
		a.crashed(c, m)
	case messages.Forget:
		a.forget(m.ID)
	case publish:
		a.publish(c)
	case review:
		a.review()
	case published:
		a.published(c, m)
	case *actor.Stopping:
		a.leave()
	}
}

// changed takes the state of a job. A new phase or status is published at once.
func (a *aggregator) changed(c actor.Context, st job.State) {
	f := a.jobs[st.ID]
	if f == nil {
		f = &tracked{}
		a.jobs[st.ID] = f
	}
	if f.own == nil {
		var last *report.Report
		if f.last.JobID != "" {
			last = &f.last
		}
		f.own, f.external = report.NewBuilder(st, last), nil
	}
	f.own.Changed(st)
	f.dirty = true
	if st.Phase != f.last.Phase || st.Status() != f.last.Status || f.last.Epoch != a.epoch {
		a.publish(c)
	}
}

// crashed takes that the actor of a job panicked. It is published at once.
func (a *aggregator) crashed(c actor.Context, m messages.Crashed) {
	if f := a.jobs[m.ID]; f != nil && f.own != nil {
		f.own.Crashed(m.Cause, m.Until)
		f.dirty = true
		a.publish(c)
	}
}

// progress takes how far a disk is.
func (a *aggregator) progress(p report.Progress) {
	if f := a.jobs[p.Job]; f != nil && f.own != nil {
		f.own.Observe(p, a.now())
		f.dirty = true
	}
}

// silence takes a call that is not answered, or its answer.
func (a *aggregator) silence(s report.Silence) {
	if f := a.jobs[s.Job]; f != nil && f.own != nil {
		f.own.Hear(s)
		f.dirty = true
	}
}

// external takes an update of another copy tool. The first update of an unknown id makes the job known. An update of a
// job of this node is accepted and changes nothing.
func (a *aggregator) external(c actor.Context, m messages.External) {
	err := m.Update.Check()
	if err == nil {
		f := a.jobs[m.ID]
		if f == nil {
			f = &tracked{external: report.NewExternalBuilder(m.ID, nil, a.now())}
			a.jobs[m.ID] = f
		}
		if f.external != nil {
			f.dirty = f.external.Apply(m.Update, a.now()) || f.dirty
			a.publish(c)
		}
	}
	c.Respond(messages.Answer{Err: err})
}

// forget drops a job that was deleted.
func (a *aggregator) forget(id job.ID) {
	delete(a.jobs, id)
	for _, o := range a.writers {
		o.forget(id)
	}
}

// publish makes a report of each job that changed and offers it to the sinks.
func (a *aggregator) publish(c actor.Context) {
	now := a.now()
	for _, id := range a.sorted() {
		if f := a.jobs[id]; f.dirty {
			f.dirty = false
			a.report(f, now)
		}
	}
	for _, o := range a.writers {
		o.flush(c, a.life, now)
	}
}

// sorted is the dirty jobs in the order of their ids, so that versions do not depend on the order of a map.
func (a *aggregator) sorted() []job.ID {
	ids := make([]job.ID, 0, len(a.jobs))
	for id, f := range a.jobs {
		if f.dirty {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// report makes the next version of a job's report and offers it to the sinks.
func (a *aggregator) report(f *tracked, now time.Time) {
	r := a.current(f, now)
	a.seq++
	r.Epoch, r.Seq = a.epoch, a.seq
	before := f.last
	f.last = r
	for _, o := range a.writers {
		o.offer(before, r)
	}
}

// current is the report of a job at the time now. For a job of before the restart whose actor has not sent its state
// yet, it is the last report.
func (a *aggregator) current(f *tracked, now time.Time) report.Report {
	switch {
	case f.own != nil:
		return f.own.Report(now, a.degraded())
	case f.external != nil:
		return f.external.Report(now)
	default:
		return f.last
	}
}

// degraded says whether a sink does not take reports.
func (a *aggregator) degraded() bool {
	for _, o := range a.writers {
		if o.down() {
			return true
		}
	}
	return false
}

// review finds the jobs whose report has changed by time alone, and refills the volatile sinks.
func (a *aggregator) review() {
	now := a.now()
	for _, f := range a.jobs {
		if f.last.Status.Terminal() || f.dirty {
			continue
		}
		r := a.current(f, now)
		f.dirty = !slices.Equal(r.Health, f.last.Health) ||
			report.SpeedOr0(r.BytesPerSecond) != report.SpeedOr0(f.last.BytesPerSecond) ||
			r.Operation != f.last.Operation
	}
	for _, o := range a.writers {
		if o.refillDue(now) {
			o.refill(a.recent(now), now)
		}
	}
}

// recent is the reports for a refill, the newest first: of the jobs that have not ended, and of those that ended within
// the last 72 h.
func (a *aggregator) recent(now time.Time) []report.Report {
	var out []report.Report
	for _, f := range a.jobs {
		if f.last.JobID == "" || f.last.Epoch != a.epoch {
			continue
		}
		if e := f.last.EndedAt; e == nil || now.Sub(*e) < refillEnded {
			out = append(out, f.last)
		}
	}
	slices.SortFunc(out, func(x, y report.Report) int { return int(y.Seq - x.Seq) })
	return out[:min(len(out), refillMost)]
}

// published takes the result of a call to a sink.
func (a *aggregator) published(c actor.Context, m published) {
	changed := m.writer.published(m, a.now(), a.log)
	if changed { // the health of each running job changes with that of the sink
		for _, f := range a.jobs {
			f.dirty = f.dirty || f.own != nil && !f.last.Status.Terminal()
		}
	}
	m.writer.flush(c, a.life, a.now())
}

// abandon stops the ticks after a panic. What is in memory is no longer believed, so it is not published.
func (a *aggregator) abandon() {
	for _, cancel := range a.ticks {
		cancel()
	}
}

// leave publishes the last reports, after all jobs have stopped. It waits up to 2 s for the sinks.
func (a *aggregator) leave() {
	a.abandon()
	now := a.now()
	for _, id := range a.sorted() {
		a.report(a.jobs[id], now)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.life), 2*time.Second)
	defer cancel()
	for _, o := range a.writers {
		o.publishLast(ctx, a.log)
	}
}
