package actors

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
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
	known      map[job.ID]*member
	arrived    int64             // how often a job was queued
	maxRunning int               // jobs that run at the same time
	ready      bool              // the journal has been read
	deferred   []deferredRequest // requests that came before that
}

// member is what Jobs knows of one job.
type member struct {
	id       job.ID
	created  time.Time  // when the job was accepted
	pid      *actor.PID // nil while the job has no actor
	seq      int64      // of the state that the next three are from
	phase    job.Phase
	since    time.Time // when the phase began
	snapshot job.SnapshotRef
	arrived  int64 // orders jobs that were queued at the same time
	admitted bool  // Admit was sent, and the job is still seen as queued
	spawned  time.Time
	crash    crashes
	deleting int        // deletions that the journal has not answered yet
	deleted  bool       // its actor ends
	reply    *actor.PID // of the caller who deleted it; answered then
	next     *job.State // of another job of that id, which begins then
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
		of    *member
		reply *actor.PID
		err   error
	}
)

func jobsProps(d *deps, aggregator, spawner *actor.PID, reports []report.Report) *actor.Props {
	limits, _ := d.transfers.Limits()
	return rootProps(d, jobsKind, &jobs{
		deps: d, aggregator: aggregator, spawner: spawner, reports: reports, maxRunning: limits.Jobs,
		known: map[job.ID]*member{},
	})
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
		if k := j.find(c, m.ID); k != nil {
			c.RequestWithCustomSender(k.pid, m, c.Sender())
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
	case revival:
		j.revived(c, m)
	case messages.TransfersOver:
		j.abandoned(m.Job)
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
		j.spawn(c, st, restartOf(st, j.reports))
	}
	for _, r := range j.deferred {
		c.ActorSystem().Root.RequestWithCustomSender(c.Self(), r.message, r.sender)
	}
	j.deferred = nil
	j.admit(c)
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
	k := j.known[st.ID]
	if k == nil {
		k = &member{id: st.ID, created: st.CreatedAt}
		j.known[st.ID] = k
	}
	j.take(k, phaseChanged(st))
	pid, err := c.SpawnNamed(jobProps(jobDeps{
		deps: j.deps, aggregator: j.aggregator, spawner: j.spawner, jobs: c.Self(), initial: st, firstEvent: first,
	}), string(st.ID))
	if err != nil {
		j.log.Error("a job could not be started; trying again", "job_id", st.ID, "err", err)
		j.revive(c, k, saveAgainMost)
		return
	}
	k.pid, k.spawned, k.admitted = pid, j.now(), false
}

// submit makes a new job durable; created follows.
func (j *jobs) submit(c actor.Context, m messages.Submit) {
	now, id := j.now(), m.ID
	if id == "" {
		var r [3]byte
		_, _ = rand.Read(r[:]) // never fails
		id = job.NewID(now, r)
	}
	reply, system := c.Sender(), c.ActorSystem()
	var ev job.Event = job.Submitted{ID: id, Mark: rand.Text(), Spec: m.Spec}
	st, _, err := job.State{}.Apply(ev, now)
	if err != nil {
		c.Send(reply, messages.Submitted{Err: err})
		return
	}
	begin(c, j.life, func(ctx context.Context) any {
		var done messages.Submitted
		if done.Err = j.reserve(ctx, system, id); done.Err != nil {
			return created{reply: reply, done: done}
		}
		done, err := j.accept(ctx, st, ev, now, m)
		if done.Err = err; err != nil || done.Existing {
			system.Root.Send(j.aggregator, messages.Release{ID: id})
		}
		return created{state: st, reply: reply, done: done}
	}, func(err error) any { return created{reply: reply, done: messages.Submitted{Err: err}} })
}

// reserve keeps an id from external jobs until the state of the new job reaches the Aggregator. It fails with Conflict
// if an external job has the id.
func (j *jobs) reserve(ctx context.Context, system *actor.ActorSystem, id job.ID) error {
	a, err := ask[messages.Answer](ctx, system, j.aggregator, messages.Reserve{ID: id})
	if err != nil {
		return err
	}
	return a.Err
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
		if k := j.known[m.state.ID]; k != nil {
			k.next = &m.state // the journal has deleted k already, so no more than its actor is left
		} else {
			j.spawn(c, m.state, nil)
			j.admit(c)
		}
	}
	if m.reply != nil {
		c.Send(m.reply, m.done)
	}
}

// command passes a command on to its job. A delete is carried out here, by the journal. A job that is not here may be
// external.
func (j *jobs) command(c actor.Context, m messages.Command) {
	k := j.known[m.ID]
	if k == nil || k.deleted {
		c.RequestWithCustomSender(j.aggregator, messages.ExternalCommand(m), c.Sender())
		return
	}
	if m.Received.Verb != job.Delete {
		if k.pid != nil || !j.begunAnew(c, k, m.Received) {
			j.forward(c, m.ID, m.Received)
		}
		return
	}
	reply, id := c.Sender(), m.ID
	k.deleting++
	begin(c, j.life, func(ctx context.Context) any {
		err := j.journal.Delete(ctx, id)
		if err == nil {
			if derr := j.transfers.Discard(ctx, id); derr != nil {
				j.log.Warn("what was recorded of the copies of a deleted job is still there", "job_id", id, "err", derr)
			}
		}
		return deleted{of: k, reply: reply, err: err}
	}, func(err error) any { return deleted{of: k, reply: reply, err: err} })
}

// deleted stops the actor of a deleted job. When that has ended, the others forget the job, and the caller is answered.
// A job that another one follows was deleted, whatever the answer is.
func (j *jobs) deleted(c actor.Context, m deleted) {
	k := m.of
	k.deleting--
	switch {
	case k.deleted || j.known[k.id] != k || m.err != nil && k.next == nil:
		c.Send(m.reply, messages.Answer{Err: m.err})
	default:
		j.drop(c, k, m.reply)
	}
}

// drop ends the actor of a job that was deleted. Another job may have its id, and so the name of its actor: that one
// begins after it.
func (j *jobs) drop(c actor.Context, k *member, reply *actor.PID) {
	j.setDown(k, false)
	k.crash.pause.stop()
	k.deleted, k.reply, k.snapshot = true, reply, job.SnapshotRef{}
	if k.pid == nil {
		j.deletedGone(c, k)
		return
	}
	c.Stop(k.pid)
}

// deletedGone follows the end of the actor of a deleted job. Nothing that the actor said comes after this, so a job
// that was forgotten does not come back.
func (j *jobs) deletedGone(c actor.Context, k *member) {
	delete(j.known, k.id)
	j.reports = slices.DeleteFunc(slices.Clone(j.reports), func(r report.Report) bool { return r.JobID == k.id })
	c.Send(j.aggregator, messages.Forget{ID: k.id})
	c.Send(j.spawner, messages.Forget{ID: k.id})
	c.Send(k.reply, messages.Answer{})
	if k.next != nil && j.life.Err() == nil {
		j.spawn(c, *k.next, nil)
		j.admit(c)
	}
}

// needed answers with the snapshots in use. The mark of a snapshot is known here before the snapshot can exist.
func (j *jobs) needed(c actor.Context) {
	var out messages.Snapshots
	for _, k := range j.known {
		if k.snapshot != (job.SnapshotRef{}) {
			out.Held = append(out.Held, k.snapshot)
		}
	}
	c.Respond(out)
}

// forward hands an event to its job, which answers the caller.
func (j *jobs) forward(c actor.Context, id job.ID, ev job.Event) {
	if k := j.find(c, id); k != nil {
		c.RequestWithCustomSender(k.pid, messages.Ask{Event: ev}, c.Sender())
	}
}

// find finds a job that has an actor. For any other it returns nil and the caller is answered: for a job that is not
// here the Aggregator does that, with NotFound, or with Conflict for an external job.
func (j *jobs) find(c actor.Context, id job.ID) *member {
	k := j.known[id]
	switch {
	case k == nil, k.deleted:
		c.RequestWithCustomSender(j.aggregator, messages.ExternalCommand{ID: id}, c.Sender())
	case k.pid == nil:
		c.Respond(messages.Answer{Err: job.Errorf("ask", job.Unavailable, beginAnew(id), "%s", k.crash.cause.Message)})
	default:
		return k
	}
	return nil
}
