package actors

import (
	"context"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// supervisor is the actor of one job. It folds events one after the other: each is durable before the next is looked
// at and before anything is done about it.
type supervisor struct {
	jobDeps
	state  job.State
	queue  []envelope // events that wait for the one that is being saved
	saving *work
	step   *work                  // what the job itself does at the source
	disks  map[job.DiskID]running // attempts that are on their way
	timers []scheduler.CancelFunc
}

// jobDeps is what a job is born with.
type jobDeps struct {
	*deps
	aggregator *actor.PID
	spawner    *actor.PID // of transfers
	jobs       *actor.PID
	first      job.State  // as the journal has it
	wake       *job.Event // happens first; nil for none
}

type running struct {
	pid     *actor.PID
	attempt int
	reason  string // of a panic; "" for none
}

// envelope is an event on its way through the job, and who waits for it.
type envelope struct {
	event job.Event
	reply *actor.PID
}

type (
	// saved: the state is durable, or could not be made so.
	saved struct {
		late
		state   job.State
		actions []job.Action
		from    envelope
		err     error
		tries   int
	}
	stepDone struct {
		late
		event job.Event
	}
	due struct {
		late
		event job.Event
	}
)

func jobProps(d jobDeps) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor {
		return &supervisor{jobDeps: d, state: d.first, disks: map[job.DiskID]running{}}
	})
}

// HandleFailure makes the job its disks' own supervisor: one that panics is stopped, and gone decides what follows. It
// is called by protoactor in the job's own mailbox. A message with the reason would come too late: that the disk has
// stopped overtakes it.
func (s *supervisor) HandleFailure(_ *actor.ActorSystem, sup actor.Supervisor, child *actor.PID,
	_ *actor.RestartStatistics, reason, _ any) {
	for id, r := range s.disks {
		if r.pid.Equal(child) {
			r.reason = fmt.Sprint(reason)
			s.disks[id] = r
		}
	}
	sup.StopChildren(child)
}

func (s *supervisor) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		s.started(c)
	case messages.Deliver:
		s.take(c, envelope{event: m.Event})
	case messages.Ask:
		s.take(c, envelope{m.Event, c.Sender()})
	case messages.Rehearse:
		s.rehearse(c, m.Disk)
	case messages.DiskEnded:
		s.diskEnded(c, m)
	case stepDone:
		s.step = nil
		s.take(c, envelope{event: m.event})
	case due:
		s.take(c, envelope{event: m.event})
	case saved:
		s.saved(c, m)
	case *actor.Terminated:
		s.gone(c, m.Who)
	case *actor.Stopping, *actor.Restarting:
		s.leave()
	}
}

func (s *supervisor) started(c actor.Context) {
	s.tell(c)
	if s.wake != nil {
		s.take(c, envelope{event: *s.wake})
	}
}

// rehearse lets a disk's actor panic.
func (s *supervisor) rehearse(c actor.Context, id job.DiskID) {
	var err error
	switch r, runs := s.disks[id]; {
	case runs:
		c.Send(r.pid, messages.Panic{})
	case s.state.Disks == nil:
		err = job.Errorf("rehearse", job.Conflict, "Try again while its disks are copied", "job %s is %s", s.state.ID,
			s.state.Status())
	default:
		err = job.Errorf("rehearse", job.Conflict, "Try again while it is copied", "%s does not run now", id)
		if _, ok := s.state.DiskState(id); !ok {
			err = job.Errorf("rehearse", job.NotFound, "See vmferry get disks "+string(s.state.ID),
				"job %s moves no %s", s.state.ID, id)
		}
	}
	c.Respond(messages.Answer{Err: err})
}

func (s *supervisor) diskEnded(c actor.Context, m messages.DiskEnded) {
	if r, ok := s.disks[m.Disk]; ok && r.pid.Equal(c.Sender()) {
		delete(s.disks, m.Disk)
	}
	c.Stop(c.Sender())
	s.take(c, envelope{event: m.Event})
}

// take looks at an event, or keeps it until the one before it is durable. What happens while the node stops is not
// looked at: it would be about the stopping, and the next start goes on from what is durable.
func (s *supervisor) take(c actor.Context, e envelope) {
	if s.life.Err() != nil {
		s.answer(c, e, job.Errorf("ask", job.Unavailable, "Try again when the daemon runs", "the daemon is stopping"))
		return
	}
	if s.saving != nil {
		s.queue = append(s.queue, e)
		return
	}
	now := s.now()
	next, actions, err := s.state.Apply(e.event, now)
	if err != nil {
		s.answer(c, e, err)
		return
	}
	s.save(c, saved{state: next, actions: actions, from: e}, now)
}

const (
	saveAgainFirst = 200 * time.Millisecond
	saveAgainMost  = 5 * time.Second
)

// save makes the new state durable. The running disks do not wait for it. While the journal can't write, the job stays
// where it is: nothing is done that the journal does not know.
func (s *supervisor) save(c actor.Context, m saved, now time.Time) {
	s.saving = begin(c, s.life, func(ctx context.Context) any {
		if m.tries > 0 {
			pause(ctx, min(saveAgainMost, saveAgainFirst<<min(m.tries, 6)))
		}
		event, err := job.EncodeEvent(m.from.event, now)
		if err == nil {
			err = s.journal.Save(ctx, m.state, event)
		}
		m.err = err
		return m
	}, func(err error) any { m.err = err; return m })
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *supervisor) saved(c actor.Context, m saved) {
	s.saving = nil
	switch {
	case m.err == nil:
		if holdsTargets(s.state) && !holdsTargets(m.state) {
			s.targets.Release(s.state.ID)
		}
		s.state = m.state
		s.logEvent(m)
		s.tell(c)
		s.answer(c, m.from, nil)
		for _, a := range m.actions {
			s.act(c, a)
		}
	case s.life.Err() != nil:
		return // the node is stopping; the journal has the last durable state
	case job.KindOf(m.err) == job.Conflict:
		s.conflict(c, m)
	default:
		s.log.Error("the journal can't be written; the job waits", "job_id", s.state.ID, "err", m.err)
		m.tries++
		s.save(c, m, s.now())
		return
	}
	s.next(c)
}

// holdsTargets says whether the job's targets are open, or may be: from when they are prepared until the commit.
func holdsTargets(st job.State) bool {
	switch st.Phase {
	case job.Connect, job.Transfer, job.Verify:
		return true
	case job.Commit:
		return !st.Committed()
	default:
		return false
	}
}

// conflict: another unfinished job moves the same VM. This one ends before it has touched anything.
func (s *supervisor) conflict(c actor.Context, m saved) {
	s.answer(c, m.from, m.err)
	s.log.Warn("the journal refused a change", "job_id", s.state.ID, "err", m.err)
	if !s.state.Phase.Terminal() {
		s.queue = append([]envelope{{event: stepFailed(s.state.Phase, m.err)}}, s.queue...)
	}
}

func (s *supervisor) next(c actor.Context) {
	for s.saving == nil && len(s.queue) > 0 {
		e := s.queue[0]
		s.queue = s.queue[1:]
		s.take(c, e)
	}
}

func (s *supervisor) answer(c actor.Context, e envelope, err error) {
	if e.reply != nil {
		c.Send(e.reply, messages.Answer{Err: err})
		return
	}
	if err != nil && s.life.Err() == nil {
		s.log.Warn("an event was refused", "job_id", s.state.ID, "err", err)
	}
}

func (s *supervisor) tell(c actor.Context) {
	c.Send(s.aggregator, messages.Changed{State: s.state})
	c.Send(s.jobs, messages.PhaseChanged{ID: s.state.ID, Phase: s.state.Phase, Snapshot: s.state.HeldSnapshot.Name})
}

// logEvent writes the line per step that operators grep for.
func (s *supervisor) logEvent(m saved) {
	log := s.log.With("job_id", s.state.ID, "vm", s.state.Spec.VM, "stage", string(s.state.Phase))
	switch e := m.from.event.(type) {
	case job.AttemptFailed:
		log.Warn("disk attempt ended early", "disk", e.Disk, "attempt", e.Attempt, "kind", string(e.Kind), "err",
			e.Message, "bytes_transferred", e.Counters.Transferred, "total_bytes", e.Counters.ToTransfer)
	case job.DiskMoved:
		log.Info("disk is on its target", "disk", e.Disk, "attempt", e.Attempt, "bytes_transferred",
			e.Counters.Transferred, "total_bytes", e.Counters.ToTransfer, "percent", 100)
	case job.StepFailed:
		log.Warn("step failed", "kind", string(e.Kind), "err", e.Message, "next", e.Next)
	default:
		log.Info("job moved on", "status", string(s.state.Status()), "round", s.state.Round())
	}
}

// gone: a disk's actor is no more. If it had not had its last word, it panicked.
func (s *supervisor) gone(c actor.Context, pid *actor.PID) {
	for id, r := range s.disks {
		if !r.pid.Equal(pid) {
			continue
		}
		delete(s.disks, id)
		d, _ := s.state.DiskState(id)
		s.take(c, envelope{event: job.AttemptFailed{
			Disk: id, Attempt: r.attempt, Counters: d.Counters, Kind: job.Internal,
			Message: "disk actor crashed: " + r.reason, Next: reportFault,
		}})
		return
	}
}

// leave ends the steps; the disks end by themselves, being children.
func (s *supervisor) leave() {
	for _, cancel := range s.timers {
		cancel()
	}
	s.step.halt()
	s.saving.halt()
}
