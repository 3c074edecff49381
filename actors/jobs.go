package actors

import (
	"context"
	"crypto/rand"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// jobs accepts, finds, starts and resumes the jobs of this node. It is their parent.
type jobs struct {
	*deps
	aggregator *actor.PID
	spawner    *actor.PID      // of transfers
	reports    []report.Report // as they were before the restart
	children   map[job.ID]*actor.PID
	order      []job.ID // queued ones, first come first served
	phase      map[job.ID]job.Phase
	holds      map[job.ID]string // names of snapshots
	most       int               // jobs that run at the same time
	ready      bool
	held       []held // what came before the journal was read
}

type held struct {
	message any
	sender  *actor.PID
}

type (
	loaded struct {
		late
		states []job.State
		err    error
	}
	created struct {
		late
		state job.State
		reply *actor.PID
		done  messages.Submitted
	}
	deleted struct {
		late
		id    job.ID
		reply *actor.PID
		err   error
	}
	fallen struct {
		id     job.ID
		reason any
	}
)

func jobsProps(d *deps, aggregator, spawner *actor.PID, reports []report.Report) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor {
		limits, _ := d.transfers.Limits()
		return &jobs{deps: d, aggregator: aggregator, spawner: spawner, reports: reports, children: map[job.ID]*actor.PID{},
			phase: map[job.ID]job.Phase{}, holds: map[job.ID]string{}, most: limits.Jobs}
	}, actor.WithSupervisor(reviveJob{}))
}

// reviveJob supervises the jobs: one that panics is stopped and begun again from what the journal knows of it.
type reviveJob struct{}

// HandleFailure is called by protoactor in the supervisor's own mailbox.
func (reviveJob) HandleFailure(sys *actor.ActorSystem, sup actor.Supervisor, child *actor.PID,
	_ *actor.RestartStatistics, reason, _ any) {
	sup.StopChildren(child)
	if self, ok := sup.(actor.Context); ok {
		sys.Root.Send(self.Self(), fallen{job.ID(lastName(child.Id)), reason})
	}
}

func lastName(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

func (j *jobs) Receive(c actor.Context) {
	if !j.ready && j.keep(c) {
		return
	}
	switch m := c.Message().(type) {
	case *actor.Started:
		j.load(c)
	case loaded:
		j.loaded(c, m)
	case messages.Submit:
		j.submit(c, m)
	case created:
		j.created(c, m)
	case messages.Command:
		j.command(c, m)
	case messages.Limit:
		j.forward(c, m.ID, m.Limited)
	case messages.Rehearse:
		if pid := j.child(c, m.ID); pid != nil {
			c.RequestWithCustomSender(pid, m, c.Sender())
		}
	case messages.Limits:
		j.most = m.Jobs
		j.turns(c)
	case messages.Needed:
		j.needed(c)
	case messages.PhaseChanged:
		j.phase[m.ID], j.holds[m.ID] = m.Phase, m.Snapshot
		j.turns(c)
	case deleted:
		j.deleted(c, m)
	case fallen:
		j.log.Error("a job's actor panicked; it begins again from the journal", "job_id", m.id, "reason", m.reason)
	case *actor.Terminated:
		j.gone(c, m.Who)
	}
}

// keep holds requests back until the journal has been read.
func (j *jobs) keep(c actor.Context) bool {
	switch m := c.Message().(type) {
	case messages.Submit, messages.Command, messages.Limit, messages.Needed, messages.Rehearse:
		j.held = append(j.held, held{m, c.Sender()})
		return true
	default:
		return false
	}
}

func (j *jobs) load(c actor.Context) {
	begin(c, j.life, func(ctx context.Context) any {
		for {
			states, err := j.journal.Jobs(ctx)
			if err == nil || ctx.Err() != nil {
				return loaded{states: states, err: err}
			}
			j.log.Error("the journal can't be read; trying again", "err", err)
			pause(ctx, saveAgainMost)
		}
	}, func(err error) any { return loaded{err: err} })
}

// loaded goes on with every job that had not ended.
func (j *jobs) loaded(c actor.Context, m loaded) {
	if m.err != nil {
		j.log.Error("the journal can't be read", "err", m.err)
		return
	}
	j.ready = true
	for _, st := range m.states {
		if j.children[st.ID] == nil {
			j.spawn(c, st, restartOf(st, j.reports))
		}
	}
	for _, h := range j.held {
		c.ActorSystem().Root.RequestWithCustomSender(c.Self(), h.message, h.sender)
	}
	j.held = nil
}

// restartOf is the first event of a job that was found unfinished; nil if it needs none.
func restartOf(st job.State, reports []report.Report) *job.Event {
	if st.Phase.Terminal() || st.Phase == job.Queued {
		return nil
	}
	var seen []job.LastSeen
	for _, r := range reports {
		if r.JobID != st.ID {
			continue
		}
		for _, d := range r.Disks {
			seen = append(seen, job.LastSeen{Disk: d.DiskID, Round: r.Round, Transferred: d.BytesTransferred,
				Skipped: d.BytesSkipped, Resent: d.BytesResent})
		}
	}
	var ev job.Event = job.Restarted{Disks: seen}
	return &ev
}

func (j *jobs) spawn(c actor.Context, st job.State, wake *job.Event) {
	pid, err := c.SpawnNamed(jobProps(jobDeps{deps: j.deps, aggregator: j.aggregator, spawner: j.spawner, jobs: c.Self(), first: st,
		wake: wake}), string(st.ID))
	if err != nil {
		j.log.Error("a job could not be started", "job_id", st.ID, "err", err)
		return
	}
	j.children[st.ID], j.phase[st.ID], j.holds[st.ID] = pid, st.Phase, st.HeldSnapshot.Name
	if st.Phase == job.Queued {
		j.order = append(j.order, st.ID)
	}
}

func (j *jobs) submit(c actor.Context, m messages.Submit) {
	now, id := j.now(), m.ID
	if id == "" {
		var r [3]byte
		_, _ = rand.Read(r[:]) // never fails
		id = job.NewID(now, r)
	}
	reply := c.Sender()
	var ev job.Event = job.Submitted{ID: id, Spec: m.Spec}
	st, _, err := job.State{}.Apply(ev, now)
	if err != nil {
		c.Send(reply, messages.Submitted{Err: err})
		return
	}
	begin(c, j.life, func(ctx context.Context) any {
		out := created{state: st, reply: reply}
		b, err := job.EncodeEvent(ev, now)
		if err == nil {
			out.done.ID, out.done.Existing, err = j.journal.Create(ctx, st, b, m.IdempotencyKey, m.BodyHash)
		}
		out.done.Err = err
		return out
	}, func(err error) any { return created{reply: reply, done: messages.Submitted{Err: err}} })
}

// created: the job's row is durable. Only now is it accepted.
func (j *jobs) created(c actor.Context, m created) {
	if m.done.Err == nil && !m.done.Existing {
		j.log.Info("job accepted", "job_id", m.state.ID, "vm", m.state.Spec.VM, "mode", string(m.state.Spec.Mode))
		j.spawn(c, m.state, nil)
		j.turns(c)
	}
	if m.reply != nil {
		c.Send(m.reply, m.done)
	}
}

// turns lets queued jobs begin while there is room.
func (j *jobs) turns(c actor.Context) {
	busy := 0
	for _, p := range j.phase {
		if !p.Terminal() && p != job.Queued && p != job.Waiting {
			busy++
		}
	}
	for len(j.order) > 0 && busy < j.most {
		id := j.order[0]
		j.order = j.order[1:]
		if pid := j.children[id]; pid != nil && j.phase[id] == job.Queued {
			j.phase[id] = job.Preflight // until it says so itself
			c.Send(pid, messages.Deliver{Event: job.Admitted{}})
			busy++
		}
	}
}

func (j *jobs) command(c actor.Context, m messages.Command) {
	if m.Asked.Verb != job.Delete {
		j.forward(c, m.ID, m.Asked)
		if m.Asked.Verb == job.Retry {
			j.order = append(j.order, m.ID)
		}
		return
	}
	reply, id := c.Sender(), m.ID
	begin(c, j.life, func(ctx context.Context) any {
		return deleted{id: id, reply: reply, err: j.journal.Delete(ctx, id)}
	}, func(err error) any { return deleted{id: id, reply: reply, err: err} })
}

func (j *jobs) deleted(c actor.Context, m deleted) {
	if m.err == nil {
		if pid := j.children[m.id]; pid != nil {
			c.Stop(pid)
		}
		delete(j.children, m.id)
		delete(j.phase, m.id)
		delete(j.holds, m.id)
		c.Send(j.aggregator, messages.Forget{ID: m.id})
	}
	c.Send(m.reply, messages.Answer{Err: m.err})
}

// needed tells which snapshots are in use. A job's intent to take one is told before the snapshot can exist.
func (j *jobs) needed(c actor.Context) {
	out := messages.Snapshots{Names: map[string]bool{}, Jobs: map[job.ID]bool{}}
	for id, name := range j.holds {
		out.Jobs[id] = true
		if name != "" {
			out.Names[name] = true
		}
	}
	c.Respond(out)
}

// forward hands an event to a job, which answers the one who asked.
func (j *jobs) forward(c actor.Context, id job.ID, ev job.Event) {
	if pid := j.child(c, id); pid != nil {
		c.RequestWithCustomSender(pid, messages.Ask{Event: ev}, c.Sender())
	}
}

// child finds a job's actor; if there is none, who asked has been told.
func (j *jobs) child(c actor.Context, id job.ID) *actor.PID {
	pid := j.children[id]
	if pid == nil {
		c.Respond(messages.Answer{Err: job.Errorf("find job", job.NotFound, "vmferry get jobs lists them",
			"there is no job %s here", id)})
	}
	return pid
}

// gone: a job's actor is no more. If nobody deleted the job, the actor panicked, and the journal knows where to go on.
func (j *jobs) gone(c actor.Context, pid *actor.PID) {
	id := job.ID(lastName(pid.Id))
	if p := j.children[id]; p == nil || !p.Equal(pid) {
		return
	}
	delete(j.children, id)
	delete(j.phase, id)
	if j.life.Err() == nil {
		j.load(c)
	}
}
