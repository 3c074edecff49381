package actors

import (
	"container/list"
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
	epoch     int64
	seq       int64
	jobs      map[job.ID]*tracked
	dirty     map[job.ID]*tracked // a report is due
	order     list.List           // *tracked in the order of their last reports
	externals externals
	doubles   map[string]bool // jobs of nodes that are not shown, by node and id
	reserved  map[job.ID]int  // ids of jobs that are being made, by their requests
	writers   []*sinkWriter
	ticks     []scheduler.CancelFunc
	left      bool          // the node ends: all jobs have stopped
	shown     chan struct{} // closed when the jobs of before the restart are published
}

// tracked is one job and its builder: own for a job of this node, external for a job of another copy tool; watched has
// the report of a job of another node. All are nil for a job of before the restart, until its actor sends its state.
type tracked struct {
	id       job.ID
	own      *report.Builder
	external *report.ExternalBuilder
	watched  *report.Report // of another node, as its Watcher made it
	last     report.Report  // as it was published
	// places in the Aggregator's lists; nil while it is in none
	order, posted, lively *list.Element
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
	mostDoubles = 1000 // jobs that are not shown because of their ids, and of which the log has told
)

// aggregatorProps also returns a channel that is closed when the jobs of before the restart are with the immediate
// sinks: a reader that comes earlier would take them for deleted.
func aggregatorProps(d *deps, epoch int64, last []report.Report, writers []*sinkWriter) (*actor.Props,
	<-chan struct{},
) {
	a := &aggregator{
		shown: make(chan struct{}),
		deps:  d, epoch: epoch, jobs: map[job.ID]*tracked{}, dirty: map[job.ID]*tracked{},
		reserved: map[job.ID]int{}, doubles: map[string]bool{}, writers: writers,
		externals: externals{most: d.externalJobs, keep: d.externalKeep},
	}
	a.restore(last)
	return rootProps(d, aggregatorKind, a), a.shown
}

// restore takes the last reports of the jobs before the restart. What they say of speeds is of another time.
func (a *aggregator) restore(last []report.Report) {
	var external []*tracked
	for i, r := range last {
		f := &tracked{id: r.JobID, last: r}
		if r.Node != "" {
			unheard := r.Unheard()
			f.watched = &unheard
			a.jobs[r.JobID] = f
			a.mark(f)
			continue
		}
		if r.Origin == report.External {
			f.external = report.NewExternalBuilder(r.JobID, &last[i], a.now())
			external = append(external, f)
			continue
		}
		f.last = r.AtRest()
		a.jobs[r.JobID] = f
		a.mark(f)
	}
	a.restoreExternal(external)
}

// mark says that a report of the job is due.
func (a *aggregator) mark(f *tracked) { a.dirty[f.id] = f }

func (a *aggregator) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		timer := scheduler.NewTimerScheduler(c.ActorSystem().Root)
		a.ticks = append(a.ticks, timer.SendRepeatedly(a.tick, a.tick, c.Self(), publish{}),
			timer.SendRepeatedly(reviewEvery, reviewEvery, c.Self(), review{}))
		a.publish(c)
		close(a.shown)
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
	case messages.ExternalCommand:
		a.externalCommand(c, m)
	case messages.Reserve:
		a.reserve(c, m.ID)
	case messages.Release:
		a.release(m.ID)
	case messages.Watched:
		a.watched(c, m.Report)
	case messages.Unwatched:
		if f := a.jobs[m.ID]; f != nil && f.watched != nil && f.watched.Node == m.Node {
			a.forget(m.ID, nil)
			a.flush(c)
		}
	case messages.Forget:
		a.forget(m.ID, nil)
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

// changed takes the state of a job of this node. A new phase or status is published at once. An external job of that id
// is dropped: none of its numbers may be shown for the job of this node.
func (a *aggregator) changed(c actor.Context, st job.State) {
	delete(a.reserved, st.ID)
	f := a.jobs[st.ID]
	if f != nil && f.external != nil {
		a.log.Warn("an external job is dropped: its id is that of a job of this node", "job_id", st.ID)
		a.externals.remove(f)
		f.external, f.last = nil, report.Report{}
	}
	if f == nil {
		f = &tracked{id: st.ID}
		a.jobs[st.ID] = f
	}
	if f.own == nil {
		var last *report.Report
		if f.last.JobID != "" {
			last = &f.last
		}
		f.own = report.NewBuilder(st, last)
	}
	f.own.Changed(st)
	a.mark(f)
	if st.Phase != f.last.Phase || st.Status() != f.last.Status || f.last.Epoch != a.epoch {
		a.publish(c)
	}
}

// watched takes a report of a job of another node. A new phase or status is published at once. The first job of an id
// that is known here keeps it: one of another node, of this one or of a tool that posts here.
func (a *aggregator) watched(c actor.Context, r report.Report) {
	f := a.jobs[r.JobID]
	switch {
	case f == nil && a.reserved[r.JobID] == 0:
		f = &tracked{id: r.JobID}
		a.jobs[r.JobID] = f
	case f == nil || f.watched == nil || f.watched.Node != r.Node:
		if !a.doubles[r.Node+" "+string(r.JobID)] && len(a.doubles) < mostDoubles {
			a.doubles[r.Node+" "+string(r.JobID)] = true
			a.log.Warn("a job of a node is not shown: another job here has its id", "node", r.Node, "job_id", r.JobID)
		}
		return
	}
	f.watched = &r
	a.mark(f)
	if r.Phase != f.last.Phase || r.Status != f.last.Status {
		a.publish(c)
	}
}

// crashed takes that the actor of a job panicked. It is published at once.
func (a *aggregator) crashed(c actor.Context, m messages.Crashed) {
	if f := a.jobs[m.ID]; f != nil && f.own != nil {
		f.own.Crashed(m.Cause, m.Until)
		a.mark(f)
		a.publish(c)
	}
}

// progress takes how far a disk is.
func (a *aggregator) progress(p report.Progress) {
	if f := a.jobs[p.Job]; f != nil && f.own != nil {
		f.own.Observe(p, a.now())
		a.mark(f)
	}
}

// silence takes a call that is not answered, or its answer.
func (a *aggregator) silence(s report.Silence) {
	if f := a.jobs[s.Job]; f != nil && f.own != nil {
		f.own.Hear(s)
		a.mark(f)
	}
}

// forget drops a job that was deleted. reply is answered when no sink would show the job after a restart; nil for none.
func (a *aggregator) forget(id job.ID, reply func(error)) {
	if f := a.jobs[id]; f != nil {
		a.externals.remove(f)
		if f.order != nil {
			a.order.Remove(f.order)
		}
	}
	delete(a.jobs, id)
	delete(a.dirty, id)
	all := &farewell{reply: reply}
	a.seq++ // a deletion has a version, as reports have
	deleted := report.Deleted{JobID: id, Epoch: a.epoch, Seq: a.seq, At: a.now()}
	for _, o := range a.writers {
		o.forget(id, all)
		o.erase(a.life, deleted)
	}
	all.done(nil)
}

// publish makes a report of each job that changed and offers it to the sinks.
func (a *aggregator) publish(c actor.Context) {
	now := a.now()
	for _, id := range a.sorted() {
		a.report(a.dirty[id], now)
	}
	clear(a.dirty)
	a.flush(c)
}

// flush begins a call of each sink that has something to take.
func (a *aggregator) flush(c actor.Context) {
	for _, o := range a.writers {
		o.flush(c, a.life, a.now())
	}
}

// sorted is the dirty jobs in the order of their ids, so that versions do not depend on the order of a map.
func (a *aggregator) sorted() []job.ID {
	ids := make([]job.ID, 0, len(a.dirty))
	for id := range a.dirty {
		ids = append(ids, id)
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
	if f.order == nil {
		f.order = a.order.PushBack(f)
	}
	a.order.MoveToBack(f.order)
	for _, o := range a.writers {
		o.offer(before, r)
	}
}

// current is the report of a job at the time now. For a job of before the restart whose actor has not sent its state
// yet, it is the last report.
func (a *aggregator) current(f *tracked, now time.Time) report.Report {
	switch {
	case f.own != nil && a.left:
		return f.own.Report(now, a.degraded()).AtRest()
	case f.own != nil:
		return f.own.Report(now, a.degraded())
	case f.external != nil:
		return f.external.Report(now)
	case f.watched != nil:
		return *f.watched
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
	for id, f := range a.jobs {
		if f.external != nil || f.watched != nil || f.last.Status.Terminal() || a.dirty[id] != nil {
			continue
		}
		r := a.current(f, now)
		if changedHealth(f.last.Health, r.Health) ||
			report.SpeedOr0(r.BytesPerSecond) != report.SpeedOr0(f.last.BytesPerSecond) ||
			r.WaitingFor != f.last.WaitingFor || r.Operation != f.last.Operation {
			a.mark(f)
		}
	}
	a.reviewExternal(now)
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
	for at := a.order.Back(); at != nil && len(out) < refillMost; at = at.Prev() {
		f, _ := at.Value.(*tracked)
		if e := f.last.EndedAt; f.last.Epoch == a.epoch && (e == nil || now.Sub(*e) < refillEnded) {
			out = append(out, f.last)
		}
	}
	return out
}

// published takes the result of a call to a sink. That a sink goes down or comes back is no reason for a report: the
// report would go to that sink too. The next report that has another reason shows it.
func (a *aggregator) published(c actor.Context, m published) {
	m.writer.published(m, a.now(), a.log)
	m.writer.flush(c, a.life, a.now())
}

// changedHealth says whether a report is due because of its health flags. A sink that went down makes none due; one
// that came back does for the jobs that are shown as degraded, once each.
func changedHealth(last, now []report.Health) bool {
	if !slices.Contains(last, report.Degraded) {
		now = slices.DeleteFunc(slices.Clone(now), func(h report.Health) bool { return h == report.Degraded })
	}
	return !slices.Equal(last, now)
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
	for _, f := range a.jobs {
		if f.own != nil && !f.last.Status.Terminal() {
			a.mark(f) // nothing of it moves any more
		}
	}
	a.left = true
	for _, id := range a.sorted() {
		a.report(a.dirty[id], now)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.life), 2*time.Second)
	defer cancel()
	for _, o := range a.writers {
		o.publishLast(ctx, now, a.log)
	}
}
