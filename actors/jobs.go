package actors

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// jobs is the actor Jobs, the parent of all jobs of this node. It accepts, starts, resumes and finds them.
type jobs struct {
	*deps
	aggregator *actor.PID
	spawner    *actor.PID      // of transfers
	reports    []report.Report // the last ones before the restart
	children   map[job.ID]*actor.PID
	queued     []job.ID // in the order in which they are admitted
	phase      map[job.ID]job.Phase
	snapshots  map[job.ID]job.SnapshotRef // the VM snapshots that the jobs have or may have
	maxRunning int                        // jobs that run at the same time
	ready      bool                       // the journal has been read
	deferred   []deferredRequest          // requests that came before that
}

// deferredRequest waits until the journal has been read.
type deferredRequest struct {
	message any
	sender  *actor.PID
}

type (
	// loaded has all jobs of the journal.
	loaded struct {
		noDeadLetterLog
		states []job.State
		err    error
	}
	// created says that a new job is durable, or why it is not.
	created struct {
		noDeadLetterLog
		state job.State
		reply *actor.PID
		done  messages.Submitted
	}
	// deleted says that the journal has deleted a job, or why it has not.
	deleted struct {
		noDeadLetterLog
		id    job.ID
		reply *actor.PID
		err   error
	}
	// jobCrashed has the reason of a Job's panic.
	jobCrashed struct {
		id     job.ID
		reason any
	}
)

func jobsProps(d *deps, aggregator, spawner *actor.PID, reports []report.Report) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor {
		limits, _ := d.transfers.Limits()
		return &jobs{
			deps: d, aggregator: aggregator, spawner: spawner, reports: reports, maxRunning: limits.Jobs,
			children: map[job.ID]*actor.PID{}, phase: map[job.ID]job.Phase{}, snapshots: map[job.ID]job.SnapshotRef{},
		}
	}, actor.WithSupervisor(reviveJob{}))
}

// reviveJob supervises the jobs. A Job that panics is stopped; when it has stopped, Jobs spawns it again from the
// journal (jobGone).
type reviveJob struct{}

// HandleFailure is called by protoactor in the mailbox of Jobs.
func (reviveJob) HandleFailure(sys *actor.ActorSystem, sup actor.Supervisor, child *actor.PID,
	_ *actor.RestartStatistics, reason, _ any,
) {
	sup.StopChildren(child)
	if self, ok := sup.(actor.Context); ok {
		sys.Root.Send(self.Self(), jobCrashed{job.ID(lastName(child.Id)), reason})
	}
}

// lastName is the last name in the path of an actor.
func lastName(path string) string {
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			return path[i+1:]
		}
	}
	return path
}

func (j *jobs) Receive(c actor.Context) {
	if !j.ready && j.deferRequest(c) {
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
		j.maxRunning = m.Jobs
		j.admit(c)
	case messages.AskSnapshots:
		j.needed(c)
	case messages.PhaseChanged:
		j.phaseChanged(c, m)
	case deleted:
		j.deleted(c, m)
	case jobCrashed:
		j.log.Error("job actor panicked; it restarts from the journal", "job_id", m.id, "reason", m.reason)
	case *actor.Terminated:
		j.jobGone(c, m.Who)
	}
}

// deferRequest defers a request until the journal has been read. It is false for other messages.
func (j *jobs) deferRequest(c actor.Context) bool {
	switch m := c.Message().(type) {
	case messages.Submit, messages.Command, messages.Limit, messages.AskSnapshots, messages.Rehearse:
		j.deferred = append(j.deferred, deferredRequest{m, c.Sender()})
		return true
	default:
		return false
	}
}

// load reads all jobs from the journal. It tries again every 5 s until it can.
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

// loaded spawns each job that has no actor yet, then handles the deferred requests. Unfinished jobs go on.
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
	for _, r := range j.deferred {
		c.ActorSystem().Root.RequestWithCustomSender(c.Self(), r.message, r.sender)
	}
	j.deferred = nil
}

// restartOf is the first event of a job that the journal has unfinished; nil for a queued job and one that has ended.
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
			seen = append(seen, job.LastSeen{
				Disk: d.DiskID, Round: r.Round, Transferred: d.BytesTransferred,
				Skipped: d.BytesSkipped, Resent: d.BytesResent,
			})
		}
	}
	restarted := job.Restarted{Disks: seen}
	if st.Mark == "" {
		restarted.Mark = rand.Text()
	}
	var ev job.Event = restarted
	return &ev
}

// spawn starts the actor of a job. first is the event that it applies before all others; nil for none.
func (j *jobs) spawn(c actor.Context, st job.State, first *job.Event) {
	pid, err := c.SpawnNamed(jobProps(jobDeps{
		deps: j.deps, aggregator: j.aggregator, spawner: j.spawner, jobs: c.Self(), initial: st, firstEvent: first,
	}), string(st.ID))
	if err != nil {
		j.log.Error("a job could not be started", "job_id", st.ID, "err", err)
		return
	}
	j.children[st.ID], j.phase[st.ID], j.snapshots[st.ID] = pid, st.Phase, st.HeldSnapshot.SnapshotRef()
	if st.Phase == job.Queued {
		j.queued = append(j.queued, st.ID)
	}
}

// submit makes a new job durable; created follows.
func (j *jobs) submit(c actor.Context, m messages.Submit) {
	now, id := j.now(), m.ID
	if id == "" {
		var r [3]byte
		_, _ = rand.Read(r[:]) // never fails
		id = job.NewID(now, r)
	}
	reply := c.Sender()
	var ev job.Event = job.Submitted{ID: id, Mark: rand.Text(), Spec: m.Spec}
	st, _, err := job.State{}.Apply(ev, now)
	if err != nil {
		c.Send(reply, messages.Submitted{Err: err})
		return
	}
	begin(c, j.life, func(ctx context.Context) any {
		done, err := j.accept(ctx, st, ev, now, m)
		done.Err = err
		return created{state: st, reply: reply, done: done}
	}, func(err error) any { return created{reply: reply, done: messages.Submitted{Err: err}} })
}

// accept claims the targets that the request names, and makes the job durable. A repeated request gives the job that
// the first one made, whose claims stay.
func (j *jobs) accept(ctx context.Context, st job.State, ev job.Event, now time.Time, m messages.Submit) (
	done messages.Submitted, err error,
) {
	b, err := job.EncodeEvent(ev, now)
	if err != nil {
		return done, err
	}
	claims := make([]job.VolumeClaim, 0, len(st.Spec.Targets))
	for _, t := range st.Spec.Targets {
		claims = append(claims, job.VolumeClaim{
			VolumeRef: job.VolumeRef{Job: st.ID, Disk: t.Disk, Target: t.URI},
			Owner:     job.VolumeOwner{Name: st.Spec.VM, Disk: t.Disk}, Adopt: st.Spec.Options.Adopt,
		})
	}
	_, err = j.targets.Claim(ctx, claims, func(ctx context.Context) error {
		done.ID, done.Existing, err = j.journal.Create(ctx, st, b, m.IdempotencyKey, m.BodyHash)
		if err == nil && done.Existing {
			return errRepeated
		}
		return err
	})
	switch {
	case errors.Is(err, errRepeated):
		return done, nil
	case job.KindOf(err) == job.Conflict && m.IdempotencyKey != "":
		// The claims of the job that the first request made may be what is in the way.
		id, found, lerr := j.journal.Lookup(ctx, m.IdempotencyKey, m.BodyHash, now)
		if lerr == nil && found {
			return messages.Submitted{ID: id, Existing: true}, nil
		}
	}
	return done, err
}

var errRepeated = errors.New("the request was made before")

// created starts a job whose row is durable, and answers the caller. Only then is the job accepted.
func (j *jobs) created(c actor.Context, m created) {
	if m.done.Err == nil && !m.done.Existing {
		j.log.Info("job accepted", "job_id", m.state.ID, "vm", m.state.Spec.VM, "mode", string(m.state.Spec.Mode))
		j.spawn(c, m.state, nil)
		j.admit(c)
	}
	if m.reply != nil {
		c.Send(m.reply, m.done)
	}
}

// phaseChanged takes the phase and the snapshot of a job. A job that was retried is queued when that is durable.
func (j *jobs) phaseChanged(c actor.Context, m messages.PhaseChanged) {
	if m.Phase == job.Queued && j.phase[m.ID].Terminal() {
		j.queued = append(j.queued, m.ID)
	}
	j.phase[m.ID], j.snapshots[m.ID] = m.Phase, m.Snapshot
	j.admit(c)
}

// admit starts queued jobs while fewer jobs run than the limit. Waiting jobs do not count.
func (j *jobs) admit(c actor.Context) {
	busy := 0
	for _, p := range j.phase {
		if !p.Terminal() && p != job.Queued && p != job.Waiting {
			busy++
		}
	}
	for len(j.queued) > 0 && busy < j.maxRunning {
		id := j.queued[0]
		j.queued = j.queued[1:]
		if pid := j.children[id]; pid != nil && j.phase[id] == job.Queued {
			j.phase[id] = job.Preflight // its PhaseChanged follows
			c.Send(pid, messages.Deliver{Event: job.Admitted{Mark: rand.Text()}})
			busy++
		}
	}
}

// command passes a command on to its job. A delete is carried out here, by the journal.
func (j *jobs) command(c actor.Context, m messages.Command) {
	if m.Received.Verb != job.Delete {
		j.forward(c, m.ID, m.Received)
		return
	}
	reply, id := c.Sender(), m.ID
	begin(c, j.life, func(ctx context.Context) any {
		err := j.journal.Delete(ctx, id)
		if err == nil {
			if derr := j.transfers.Discard(ctx, id); derr != nil {
				j.log.Warn("what was recorded of the copies of a deleted job is still there", "job_id", id, "err", derr)
			}
		}
		return deleted{id: id, reply: reply, err: err}
	}, func(err error) any { return deleted{id: id, reply: reply, err: err} })
}

// deleted stops the actor of a deleted job, and answers the caller.
func (j *jobs) deleted(c actor.Context, m deleted) {
	if m.err == nil {
		if pid := j.children[m.id]; pid != nil {
			c.Stop(pid)
		}
		delete(j.children, m.id)
		delete(j.phase, m.id)
		delete(j.snapshots, m.id)
		c.Send(j.aggregator, messages.Forget{ID: m.id})
		c.Send(j.spawner, messages.Forget{ID: m.id})
	}
	c.Send(m.reply, messages.Answer{Err: m.err})
}

// needed answers with the snapshots in use. The mark of a snapshot is known here before the snapshot can exist.
func (j *jobs) needed(c actor.Context) {
	var out messages.Snapshots
	for _, held := range j.snapshots {
		if held != (job.SnapshotRef{}) {
			out.Held = append(out.Held, held)
		}
	}
	c.Respond(out)
}

// forward hands an event to its job, which answers the caller.
func (j *jobs) forward(c actor.Context, id job.ID, ev job.Event) {
	if pid := j.child(c, id); pid != nil {
		c.RequestWithCustomSender(pid, messages.Ask{Event: ev}, c.Sender())
	}
}

// child finds a job's actor. If there is none, it answers the caller with NotFound and returns nil.
func (j *jobs) child(c actor.Context, id job.ID) *actor.PID {
	pid := j.children[id]
	if pid == nil {
		c.Respond(messages.Answer{Err: job.Errorf("find job", job.NotFound, "vmferry get jobs lists them",
			"there is no job %s here", id)})
	}
	return pid
}

// jobGone handles the end of a job's actor. A deleted job is no child any more. Any other panicked, or the node stops;
// after a panic the journal is read again, and loaded spawns the job.
func (j *jobs) jobGone(c actor.Context, pid *actor.PID) {
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
