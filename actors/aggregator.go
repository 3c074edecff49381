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

// aggregator keeps the newest value of each disk and makes reports of it. It never waits for a sink: what a sink has
// not taken is replaced by what is newer, so memory is bounded by the number of jobs.
type aggregator struct {
	*deps
	epoch   int64
	seq     int64
	jobs    map[job.ID]*followed
	writers []*sinkWriter
	ticks   []scheduler.CancelFunc
}

// followed is one job.
type followed struct {
	own      *report.Builder // one of the two
	external *report.ExternalBuilder
	last     report.Report // as it was published
	dirty    bool
}

type (
	publish struct{} // look for what changed
	review  struct{} // look for what time alone changed, and fill sinks that came back empty
)

const (
	reviewEvery = time.Second
	// Sinks get everything again after this time, so that one which lost its content is right again soon.
	refillEvery = 5 * time.Second
	// What ended longer ago than this is not filled in again.
	refillEnded = 72 * time.Hour
	refillMost  = 1000
)

func aggregatorProps(d *deps, epoch int64, last []report.Report, writers []*sinkWriter) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor {
		a := &aggregator{deps: d, epoch: epoch, jobs: map[job.ID]*followed{}, writers: writers}
		for _, r := range last {
			a.restore(r)
		}
		return a
	})
}

// restore begins with what was known before a restart.
func (a *aggregator) restore(r report.Report) {
	f := &followed{last: r, dirty: true}
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
		a.moved(m.Progress)
	case messages.External:
		a.external(c, m)
	case messages.Forget:
		a.forget(m.ID)
	case publish:
		a.publish(c)
	case review:
		a.review()
	case taken:
		a.taken(c, m)
	case *actor.Stopping:
		a.leave()
	}
}

func (a *aggregator) changed(c actor.Context, st job.State) {
	f := a.jobs[st.ID]
	if f == nil {
		f = &followed{}
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

func (a *aggregator) moved(p report.Progress) {
	if f := a.jobs[p.Job]; f != nil && f.own != nil {
		f.own.Observe(p, a.now())
		f.dirty = true
	}
}

// external takes what another copy tool posted. The first word for an unknown id makes the job known; what is posted
// for a job of ours is heard and changes nothing, because we know better.
func (a *aggregator) external(c actor.Context, m messages.External) {
	err := m.Update.Check()
	if err == nil {
		f := a.jobs[m.ID]
		if f == nil {
			f = &followed{external: report.NewExternalBuilder(m.ID, nil, a.now())}
			a.jobs[m.ID] = f
		}
		if f.external != nil {
			f.dirty = f.external.Apply(m.Update, a.now()) || f.dirty
			a.publish(c)
		}
	}
	c.Respond(messages.Answer{Err: err})
}

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

// sorted gives the jobs in a fixed order, so that versions do not depend on chance.
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

func (a *aggregator) report(f *followed, now time.Time) {
	r := a.current(f, now)
	a.seq++
	r.Epoch, r.Seq = a.epoch, a.seq
	before := f.last
	f.last = r
	for _, o := range a.writers {
		o.offer(before, r)
	}
}

// current is the report of a job as of now. Of one that is known from before a restart, and whose actor has not spoken
// yet, it is the last one.
func (a *aggregator) current(f *followed, now time.Time) report.Report {
	switch {
	case f.own != nil:
		return f.own.Report(now, a.degraded())
	case f.external != nil:
		return f.external.Report(now)
	default:
		return f.last
	}
}

func (a *aggregator) degraded() bool {
	for _, o := range a.writers {
		if o.down() {
			return true
		}
	}
	return false
}

// review finds the jobs whose health changed by nothing but time, and refills the sinks.
func (a *aggregator) review() {
	now := a.now()
	for _, f := range a.jobs {
		if f.last.Status.Terminal() || f.dirty {
			continue
		}
		r := a.current(f, now)
		f.dirty = !slices.Equal(r.Health, f.last.Health) || r.BytesPerSecond != f.last.BytesPerSecond ||
			r.Operation != f.last.Operation
	}
	for _, o := range a.writers {
		if o.refillDue(now) {
			o.refill(a.recent(now), now)
		}
	}
}

// recent is what a sink should hold: every job that has not ended, and the newest of those that have.
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

func (a *aggregator) taken(c actor.Context, m taken) {
	changed := m.writer.taken(m, a.now(), a.log)
	if changed { // every running job shows that it is degraded, or no longer
		for _, f := range a.jobs {
			f.dirty = f.dirty || f.own != nil && !f.last.Status.Terminal()
		}
	}
	m.writer.flush(c, a.life, a.now())
}

// leave hands each sink the last word. The jobs are gone already.
func (a *aggregator) leave() {
	for _, cancel := range a.ticks {
		cancel()
	}
	now := a.now()
	for _, id := range a.sorted() {
		a.report(a.jobs[id], now)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.life), 2*time.Second)
	defer cancel()
	for _, o := range a.writers {
		o.last(ctx, a.log)
	}
}
