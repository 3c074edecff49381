package actors

import (
	"context"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// revivals say how often and how soon a Job that panicked begins again from the journal: for about three minutes. After
// that it is down: nothing of it runs until an operator begins it anew, or the daemon is started again.
func revivals() job.Policy { return job.Policy{First: time.Second, Most: time.Minute, Budget: 8} }

// calmAfter is how long an actor must have lived so that its panic counts as the first in a row.
const calmAfter = 10 * time.Minute

// crashes are the panics in a row of one Job.
type crashes struct {
	failures int
	reason   string // of the last one; "" before the actor has ended
	pause    *work  // before the next life, and the read of the journal; nil for none
	turn     int    // of pause: an earlier one is void
	down     bool   // the budget is used up
	cause    job.Failure
	waiting  []deferredRequest // commands for the next life
}

// begun is answered by a Job that begins again: its state has been reported.
type begun struct{ noDeadLetterLog }

// revival has the state of a Job that is to begin again, as the journal has it.
type revival struct {
	noDeadLetterLog
	id    job.ID
	turn  int
	state job.State
	err   error
}

// HandleFailure makes Jobs the supervisor of its jobs: a Job that panics is stopped, and jobGone decides what follows.
// It is called by protoactor in the mailbox of Jobs.
func (j *jobs) HandleFailure(_ *actor.ActorSystem, sup actor.Supervisor, child *actor.PID,
	_ *actor.RestartStatistics, reason, _ any,
) {
	j.panicked(jobKind, child, reason)
	if k := j.known[job.ID(lastName(child.Id))]; k != nil {
		k.crash.reason = fmt.Sprint(reason)
	}
	sup.StopChildren(child)
}

// jobGone handles the end of a job's actor. A deleted job is not known any more. Any other panicked, or the node stops.
// After a panic the job begins again from the journal: after a pause that grows, or not at all if it panics again and
// again.
func (j *jobs) jobGone(c actor.Context, pid *actor.PID) {
	k := j.known[job.ID(lastName(pid.Id))]
	if k == nil || k.pid == nil || !k.pid.Equal(pid) {
		return
	}
	if k.deleted {
		j.deletedGone(c, k)
		return
	}
	if j.life.Err() != nil {
		return
	}
	k.pid, k.admitted = nil, false
	if j.now().Sub(k.spawned) >= calmAfter {
		k.crash.failures = 0
	}
	k.crash.failures++
	policy := revivals()
	if k.crash.failures > policy.Budget {
		j.giveUp(c, k)
		return
	}
	d := policy.Pause(k.crash.failures, string(k.id))
	k.crash.cause = job.Failure{
		Phase: k.phase, Kind: job.Internal, At: j.now(), Next: reportFault,
		Message: "the actor of the job panicked and begins again from the journal: " + k.crash.reason,
	}
	j.log.Warn("a job begins again from the journal", "job_id", k.id, "failures", k.crash.failures,
		"pause", d.Round(time.Millisecond).String())
	c.Send(j.aggregator, messages.Crashed{ID: k.id, Cause: k.crash.cause, Until: j.now().Add(d)})
	j.revive(c, k, d)
}

// giveUp leaves a Job alone that panics again and again. It takes no place of the node any more. Its state stays as the
// journal has it, with its snapshot and the claims of its targets; when its transfers have ended, its targets are
// closed.
func (j *jobs) giveUp(c actor.Context, k *member) {
	j.setDown(k, true)
	kept := "its targets are kept as they are"
	if k.snapshot != (job.SnapshotRef{}) {
		kept = "its snapshot and its targets are kept as they are"
	}
	k.crash.cause = job.Failure{
		Phase: k.phase, Kind: job.Internal, At: j.now(), Next: beginAnew(k.id),
		Message: fmt.Sprintf("the actor of the job panicked %d times in a row; the job stands still, and %s: %s",
			k.crash.failures, kept, k.crash.reason),
	}
	j.log.Error("a job stands still", "job_id", k.id, "err", k.crash.cause.Message, "next", k.crash.cause.Next)
	c.Send(j.aggregator, messages.Crashed{ID: k.id, Cause: k.crash.cause})
	c.Request(j.spawner, messages.EndTransfers{Job: k.id})
	j.admit(c)
}

// setDown keeps the count of the Jobs that are down.
func (j *jobs) setDown(k *member, down bool) {
	if k.crash.down != down {
		k.crash.down = down
		j.counts.down.Add(map[bool]int64{true: 1, false: -1}[down])
	}
}

// beginAnew is the next step for a Job without an actor.
func beginAnew(id job.ID) string {
	return fmt.Sprintf("Begin it again from the journal with vmferry retry %s, or end it with vmferry cancel %s. %s",
		id, id, reportFault)
}

// abandoned closes the targets of a Job that is down, when nothing writes to them any more.
func (j *jobs) abandoned(id job.ID) {
	if k := j.known[id]; k != nil && k.crash.down {
		j.targets.Release(id)
	}
}

// begunAnew begins a Job without an actor at once, with a new budget, if an operator retries or cancels it. The cancel
// is handed to its next actor, and so is the retry of a job that has ended. It says whether it has taken the command.
func (j *jobs) begunAnew(c actor.Context, k *member, cmd job.CommandReceived) bool {
	switch {
	case cmd.Verb == job.Retry && !k.phase.Terminal() && (cmd.Fresh || len(cmd.Disks) > 0):
		c.Respond(messages.Answer{Err: job.Errorf("retry", job.Conflict,
			"Retry it without options, or cancel it first", "job %s has not ended: its actor panicked", k.id)})
		return true
	case cmd.Verb == job.Retry && !k.phase.Terminal():
		k.crash.waiting = append(k.crash.waiting, deferredRequest{begun{}, c.Sender()})
	case cmd.Verb == job.Retry, cmd.Verb == job.Cancel:
		k.crash.waiting = append(k.crash.waiting, deferredRequest{messages.Ask{Event: cmd}, c.Sender()})
	default:
		return false
	}
	k.crash.failures = 0
	j.setDown(k, false)
	j.log.Info("a job that stood still begins again from the journal", "job_id", k.id, "verb", string(cmd.Verb))
	j.revive(c, k, 0)
	return true
}

// revive reads the state of a Job from the journal after a pause, in place of an earlier revival; revived follows.
func (j *jobs) revive(c actor.Context, k *member, after time.Duration) {
	k.crash.pause.stop()
	k.crash.turn++
	r := revival{id: k.id, turn: k.crash.turn}
	k.crash.pause = begin(c, j.life, func(ctx context.Context) any {
		pause(ctx, after)
		r.state, r.err = j.stateOf(ctx, r.id)
		return r
	}, func(err error) any { r.err = err; return r })
}

// stateOf reads the state of one job from the journal.
func (j *jobs) stateOf(ctx context.Context, id job.ID) (job.State, error) {
	states, err := j.journal.Jobs(ctx)
	if err != nil {
		return job.State{}, err
	}
	for _, st := range states {
		if st.ID == id {
			return st, nil
		}
	}
	return job.State{}, job.Errorf("find job", job.NotFound, "", "the journal has no job %s", id)
}

// revived spawns the Job, and hands it the commands that came meanwhile. If the journal can't be read, it tries again.
func (j *jobs) revived(c actor.Context, m revival) {
	k := j.known[m.id]
	if k == nil || k.crash.turn != m.turn || k.pid != nil || k.next != nil || j.life.Err() != nil {
		return
	}
	if m.err != nil {
		j.log.Error("a job can't be read from the journal; trying again", "job_id", m.id, "err", m.err)
		j.revive(c, k, saveAgainMost)
		return
	}
	j.counts.revived.Add(1)
	j.spawn(c, m.state, restartOf(m.state, j.reports))
	if k.pid == nil {
		return
	}
	for _, w := range k.crash.waiting {
		c.RequestWithCustomSender(k.pid, w.message, w.sender)
	}
	k.crash.waiting = nil
	j.admit(c)
}
