package actors

import (
	"container/list"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// Limits of the jobs of other copy tools, where Deps has none.
const (
	StandardExternalJobs = 10_000
	StandardExternalKeep = 72 * time.Hour
)

// externals are the jobs of other copy tools, in the order of their tools' last updates. An update, and a look for jobs
// that are silent for too long, cost the same with many jobs as with few. The Aggregator owns it.
type externals struct {
	most   int           // jobs
	keep   time.Duration // a job whose tool is silent for longer is dropped
	posted list.List     // *tracked, the longest silence first
	lively list.List     // likewise, of those that are not shown as stale
}

// heard takes note of an update of a job. It says whether the job was not lively before.
func (e *externals) heard(f *tracked) (back bool) {
	if f.posted == nil {
		f.posted = e.posted.PushBack(f)
	}
	e.posted.MoveToBack(f.posted)
	if back = f.lively == nil; back {
		f.lively = e.lively.PushBack(f)
	}
	e.lively.MoveToBack(f.lively)
	return back
}

// fallSilent takes out the jobs that have been silent for StaleAfter since the last call.
func (e *externals) fallSilent(now time.Time) (out []*tracked) {
	for first := e.lively.Front(); first != nil; first = e.lively.Front() {
		f, _ := first.Value.(*tracked)
		if now.Sub(f.external.Heard()) <= report.StaleAfter {
			return out
		}
		e.lively.Remove(first)
		f.lively = nil
		out = append(out, f)
	}
	return out
}

// expired are the jobs that have been silent for too long, at most that many.
func (e *externals) expired(now time.Time, most int) (out []*tracked) {
	for at := e.posted.Front(); at != nil && len(out) < most; at = at.Next() {
		f, _ := at.Value.(*tracked)
		if now.Sub(f.external.Heard()) <= e.keep {
			break
		}
		out = append(out, f)
	}
	return out
}

func (e *externals) remove(f *tracked) {
	if f.posted != nil {
		e.posted.Remove(f.posted)
	}
	if f.lively != nil {
		e.lively.Remove(f.lively)
	}
	f.posted, f.lively = nil, nil
}

// restoreExternal takes the jobs of other copy tools that were known before the restart. If there are more of them than
// may be, those with the longest silence are dropped.
func (a *aggregator) restoreExternal(jobs []*tracked) {
	slices.SortStableFunc(jobs, func(x, y *tracked) int { return x.external.Heard().Compare(y.external.Heard()) })
	more := max(0, len(jobs)-a.externals.most)
	if more > 0 {
		a.log.Warn("there are more external jobs than limits.external_jobs; those with the longest silence are dropped",
			"dropped", more)
	}
	for i, f := range jobs {
		if i < more {
			for _, o := range a.writers {
				o.forget(f.id, &farewell{})
			}
			continue
		}
		a.jobs[f.id] = f
		a.externals.heard(f)
		a.mark(f)
	}
}

// external takes an update of another copy tool.
func (a *aggregator) external(c actor.Context, m messages.External) {
	err := m.Update.Check()
	if err == nil {
		err = a.post(c, m)
	}
	c.Respond(messages.Answer{Err: err})
}

// post applies an update. The first update of an unknown id makes the job known. A report of the change is with the
// immediate sinks when post returns; all others get it at the next tick.
func (a *aggregator) post(c actor.Context, m messages.External) error {
	f, err := a.externalJob(m.ID)
	if err != nil {
		return err
	}
	applied, err := f.external.Apply(m.Update, a.now())
	if err != nil {
		return err
	}
	a.jobs[m.ID] = f
	back := a.externals.heard(f)
	if applied || back {
		a.show(c, f)
	}
	return nil
}

// externalJob finds the job of another tool, or makes one that is not in the lists yet. It fails with Conflict for an
// id of a job of this node, and with ErrTooManyExternal.
func (a *aggregator) externalJob(id job.ID) (*tracked, error) {
	const op = "take progress update"
	f := a.jobs[id]
	switch {
	case f != nil && f.external != nil:
		return f, nil
	case f != nil || a.reserved[id] > 0:
		return nil, job.Errorf(op, job.Conflict, "Post under the id of the tool's own job",
			"job %s is vmferry's own", id)
	case a.externals.posted.Len() >= a.externals.most:
		return nil, job.Errorf(op, job.Unavailable,
			"Delete external jobs that have ended, or raise limits.external_jobs", "%w: %d",
			report.ErrTooManyExternal, a.externals.most)
	}
	return &tracked{id: id, external: report.NewExternalBuilder(id, nil, a.now())}, nil
}

// show makes a report of one job, and gives it to the immediate sinks at once.
func (a *aggregator) show(c actor.Context, f *tracked) {
	now := a.now()
	delete(a.dirty, f.id)
	a.report(f, now)
	for _, o := range a.writers {
		if o.immediate() {
			o.flush(c, a.life, now)
		}
	}
}

// externalCommand carries out a command for the job of another tool. A delete is answered when it is durable.
func (a *aggregator) externalCommand(c actor.Context, m messages.ExternalCommand) {
	f := a.jobs[m.ID]
	var err error
	switch {
	case f == nil || f.external == nil:
		err = job.Errorf("find job", job.NotFound, "vmferry get jobs lists them", "there is no job %s here", m.ID)
	case m.Received.Verb == job.Delete:
		reply, root := c.Sender(), c.ActorSystem().Root
		a.forget(f.id, func(err error) { root.Send(reply, messages.Answer{Err: err}) })
		a.flush(c)
		return
	case m.Received.Verb == job.Cancel && !m.Received.Purge:
		if err = f.external.Cancel(a.now()); err == nil {
			a.show(c, f)
		}
	default:
		err = job.Errorf("command job", job.Conflict, "Use the tool that runs the job; cancel and delete work here",
			"job %s is another tool's: vmferry only shows it", m.ID)
	}
	c.Respond(messages.Answer{Err: err})
}

// reserve keeps an id for a job of this node.
func (a *aggregator) reserve(c actor.Context, id job.ID) {
	if f := a.jobs[id]; f != nil && f.external != nil {
		c.Respond(messages.Answer{Err: job.Errorf("accept job", job.Conflict,
			"Leave the id out to get a new one, or delete the external job",
			"job %s exists already: another copy tool posts its progress", id)})
		return
	}
	if f := a.jobs[id]; f != nil && f.watched != nil {
		c.Respond(messages.Answer{Err: job.Errorf("accept job", job.Conflict, "Leave the id out to get a new one",
			"job %s exists already, at node %s", id, f.watched.Node)})
		return
	}
	a.reserved[id]++
	c.Respond(messages.Answer{})
}

func (a *aggregator) release(id job.ID) {
	if a.reserved[id]--; a.reserved[id] <= 0 {
		delete(a.reserved, id)
	}
}

// reviewExternal finds the jobs whose tools are silent: they become stale, and later they are dropped.
func (a *aggregator) reviewExternal(now time.Time) {
	for _, f := range a.externals.fallSilent(now) {
		if f.last.Status == job.Running {
			a.mark(f)
		}
	}
	for _, f := range a.externals.expired(now, sinkBatch) {
		a.log.Info("an external job is dropped: its tool was silent for too long", "job_id", f.id,
			"last_update", f.external.Heard(), "status", string(f.last.Status))
		a.forget(f.id, nil)
	}
}
