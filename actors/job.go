package actors

import (
	"context"
	"fmt"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// supervisor is the actor Job. It applies events one after the other: an event is durable before its actions begin and
// before the next event is applied.
type supervisor struct {
	jobDeps
	state      job.State
	queue      []envelope // events that wait until the event before them is durable
	saving     *work
	step       *work                  // the step of the job itself that runs now
	silence    *silence               // of the calls of that step
	disks      map[job.DiskID]running // attempts that run now
	timers     []scheduler.CancelFunc
	crashed    map[job.DiskID]job.AttemptFailed // Disks that panicked, and whose transfers have not ended yet
	starting   bool                             // transfers of an earlier actor of this job have not ended yet
	conflicted bool                             // the journal refused the last state
	left       bool                             // the actor stops; no event is applied any more
}

// jobDeps is what a Job is made of.
type jobDeps struct {
	*deps
	aggregator *actor.PID
	spawner    *actor.PID // of transfers
	jobs       *actor.PID
	initial    job.State  // as the journal has it
	firstEvent *job.Event // applied before all others; nil for none
}

// running is an attempt and its Disk actor.
type running struct {
	pid     *actor.PID
	attempt int
	reason  string // of a panic; "" for none
}

// envelope is an event and the caller that waits until it is durable; nil for none.
type envelope struct {
	event job.Event
	reply *actor.PID
	since time.Time // the event is meant for the phase that began then; zero for any
}

type (
	// saved says that the state is durable, or why it is not.
	saved struct {
		noDeadLetterLog
		state   job.State
		actions []job.Action
		from    envelope
		err     error
		tries   int
		since   time.Time // of the first try that failed
	}
	// stepDone has the event that a step ended with.
	stepDone struct {
		noDeadLetterLog
		event job.Event
	}
	// due has the event of a timer.
	due struct {
		noDeadLetterLog
		event job.Event
	}
)

func jobProps(d jobDeps) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor {
		return &supervisor{
			jobDeps: d, state: d.initial, disks: map[job.DiskID]running{},
			crashed: map[job.DiskID]job.AttemptFailed{},
		}
	})
}

// HandleFailure makes the Job the supervisor of its Disks: a Disk that panics is stopped, and diskGone decides what
// follows. It is called by protoactor in the Job's mailbox. The reason is kept here: the Terminated of the Disk would
// overtake a message with it.
func (s *supervisor) HandleFailure(_ *actor.ActorSystem, sup actor.Supervisor, child *actor.PID,
	_ *actor.RestartStatistics, reason, _ any,
) {
	s.panicked(diskKind, child, reason)
	for id, r := range s.disks {
		if r.pid.Equal(child) {
			r.reason = fmt.Sprint(reason)
			s.disks[id] = r
		}
	}
	sup.StopChildren(child)
}

func (s *supervisor) Receive(c actor.Context) {
	defer keepStack()
	switch m := c.Message().(type) {
	case *actor.Started:
		s.started(c)
	case messages.Admit:
		s.handle(c, envelope{event: job.Admitted{Mark: m.Mark}, since: m.Since})
	case messages.Ask:
		s.handle(c, envelope{event: m.Event, reply: c.Sender()})
	case begun:
		c.Respond(messages.Answer{})
	case messages.Rehearse:
		s.rehearse(c, m.Disk)
	case messages.DiskEnded:
		s.diskEnded(c, m)
	case messages.TransfersOver:
		s.transfersOver(c, m.Disk)
	case listen:
		if s.step != nil {
			s.silence.look(c)
		}
	case stepDone:
		s.step = nil
		s.silence.stop()
		s.handle(c, envelope{event: m.event})
	case due:
		s.handle(c, envelope{event: m.event})
	case saved:
		s.saved(c, m)
	case *actor.Terminated:
		s.diskGone(c, m.Who)
	case *actor.Stopping, *actor.Restarting:
		s.leave()
	}
}

// started reports the state as the journal has it, and applies the first event.
func (s *supervisor) started(c actor.Context) {
	s.publish(c)
	if !holdsTargets(s.state) {
		s.targets.Release(s.state.ID) // of an actor of this job that panicked before it could
	}
	if s.firstEvent == nil {
		return
	}
	o := s.state.Spec.Options
	c.Send(s.spawner, messages.LimitJob{
		ID:     s.state.ID,
		Limits: job.TransferLimits{Bandwidth: o.Bandwidth, Disks: o.Disks},
	})
	s.starting = true
	c.Request(s.spawner, messages.EndTransfers{Job: s.state.ID})
}

// transfersOver goes on when nothing of a job, or of a Disk that crashed, writes to a target any more.
func (s *supervisor) transfersOver(c actor.Context, disk job.DiskID) {
	if disk != "" {
		if ev, ok := s.crashed[disk]; ok {
			delete(s.crashed, disk)
			s.handle(c, envelope{event: ev})
		}
		return
	}
	if s.starting {
		s.starting = false
		s.handle(c, envelope{event: *s.firstEvent})
		s.next(c)
	}
}

// rehearse makes a Disk panic, and answers the caller.
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
				"job %s has no disk %s", s.state.ID, id)
		}
	}
	c.Respond(messages.Answer{Err: err})
}

// diskEnded takes the last message of a Disk, and stops the Disk.
func (s *supervisor) diskEnded(c actor.Context, m messages.DiskEnded) {
	if r, ok := s.disks[m.Disk]; ok && r.pid.Equal(c.Sender()) {
		delete(s.disks, m.Disk)
	}
	c.Stop(c.Sender())
	s.handle(c, envelope{event: m.Event})
}

// handle applies an event, or queues it until the event before it is durable. An event that comes while the node stops
// is refused: the stop is its cause, and the next start goes on from what is durable.
func (s *supervisor) handle(c actor.Context, e envelope) {
	if s.left || s.life.Err() != nil {
		s.answer(c, e, job.Errorf("ask", job.Unavailable, "Try again when the daemon runs", "the daemon is stopping"))
		return
	}
	if s.saving != nil || s.starting {
		s.queue = append(s.queue, e)
		return
	}
	if !e.since.IsZero() && !e.since.Equal(phaseSince(s.state)) {
		return // the job has left the queue meanwhile, and may be in it again
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

// save makes the new state durable, in a goroutine. Running disks go on meanwhile. While the journal can't write, it
// tries again, and the job does nothing new: no action begins whose state is not in the journal.
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

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// saved takes the new state and begins its actions, or saves it again.
func (s *supervisor) saved(c actor.Context, m saved) {
	s.saving = nil
	switch {
	case m.err == nil:
		if holdsTargets(s.state) && !holdsTargets(m.state) {
			s.targets.Release(s.state.ID)
		}
		s.state, s.conflicted = m.state, false
		s.logEvent(m)
		s.publish(c)
		s.answer(c, m.from, nil)
		for _, a := range m.actions {
			s.act(c, a)
		}
	case s.life.Err() != nil:
		return // the node stops; the next start goes on from what is durable
	case job.KindOf(m.err) == job.Conflict:
		s.conflict(c, m)
	default:
		s.log.Error("the journal can't be written; the job waits", "job_id", s.state.ID, "err", m.err)
		if m.tries == 0 {
			m.since = s.now()
		}
		c.Send(s.aggregator, messages.Silence{Silence: report.Silence{
			Job: s.state.ID, Of: job.PeerJournal, Since: m.since, Message: fmt.Sprint(m.err),
		}})
		m.tries++
		s.save(c, m, s.now())
		return
	}
	s.next(c)
}

// holdsTargets says whether the job's targets are or may be open: from their preparation until the commit.
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

// conflict handles a state that the journal refused, because another unfinished job moves the same VM. A job that has
// ended stays as it is; any other fails, before it has changed anything. If the journal refuses that, too, it has
// another state of this job than this actor: the panic makes Jobs begin the job again from the journal.
func (s *supervisor) conflict(c actor.Context, m saved) {
	if _, failing := m.from.event.(job.StepFailed); failing && s.conflicted {
		panic("the journal has another state of job " + string(s.state.ID))
	}
	s.conflicted = true
	s.answer(c, m.from, m.err)
	s.log.Warn("the journal refused a change", "job_id", s.state.ID, "err", m.err)
	if !s.state.Phase.Terminal() {
		s.queue = append([]envelope{{event: stepFailed(s.state.Phase, m.err)}}, s.queue...)
	}
}

// next handles queued events until one of them is being saved.
func (s *supervisor) next(c actor.Context) {
	for s.saving == nil && len(s.queue) > 0 {
		e := s.queue[0]
		s.queue = s.queue[1:]
		s.handle(c, e)
	}
}

// answer tells the caller that the event is durable or was refused. Without a caller it logs a refusal.
func (s *supervisor) answer(c actor.Context, e envelope, err error) {
	if e.reply != nil {
		c.Send(e.reply, messages.Answer{Err: err})
		return
	}
	if err != nil && s.life.Err() == nil {
		s.log.Warn("an event was refused", "job_id", s.state.ID, "err", err)
	}
}

// publish sends the durable state to the Aggregator and to Jobs.
func (s *supervisor) publish(c actor.Context) {
	c.Send(s.aggregator, messages.Changed{State: s.state})
	c.Send(s.jobs, phaseChanged(s.state))
}

// logEvent writes one line for each event. Operators search for these lines. The phases are in those of stepLog.
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
		log.Debug("job moved on", "status", string(s.state.Status()), "round", s.state.Round())
	}
}

// diskGone handles the end of a Disk. A Disk that has sent DiskEnded is not in disks any more; any other one panicked.
// Its attempt fails when its transfer has ended, too.
func (s *supervisor) diskGone(c actor.Context, pid *actor.PID) {
	for id, r := range s.disks {
		if !r.pid.Equal(pid) {
			continue
		}
		delete(s.disks, id)
		d, _ := s.state.DiskState(id)
		s.crashed[id] = job.AttemptFailed{
			Disk: id, Attempt: r.attempt, Counters: d.Counters, Kind: job.Internal,
			Message: "disk actor crashed: " + r.reason, Next: reportFault,
		}
		if !s.left {
			c.Request(s.spawner, messages.EndTransfers{Job: s.state.ID, Disk: id})
		}
		return
	}
}

// leave stops the step and the save, and waits for their goroutines. The Disks are children: protoactor stops them.
func (s *supervisor) leave() {
	s.left = true
	for _, cancel := range s.timers {
		cancel()
	}
	s.silence.stop()
	s.step.halt()
	s.saving.halt()
}
