package job

import (
	"slices"
	"strings"
	"time"
)

// Verb is a command on a job.
type Verb string

// The verbs.
const (
	Pause      Verb = "pause"
	Resume     Verb = "resume"
	Cancel     Verb = "cancel"
	Retry      Verb = "retry"
	Sync       Verb = "sync"    // one more round
	CutoverNow Verb = "cutover" // a last round, then done
	Delete     Verb = "delete"
)

// Allowed lists the commands that make sense now. A command that is in force already is allowed: it changes nothing.
func (s State) Allowed() []Verb {
	switch {
	case s.Phase == Completed:
		return []Verb{Delete}
	case s.Phase.Terminal():
		return []Verb{Retry, Delete}
	case s.Cancelling, s.Phase == Cleanup:
		return []Verb{Cancel}
	case s.Phase == Waiting:
		return []Verb{Sync, CutoverNow, Cancel}
	case s.moving() && s.Paused:
		return []Verb{Pause, Resume, Cancel}
	case s.moving():
		return []Verb{Pause, Cancel}
	default:
		return []Verb{Cancel}
	}
}

// moving says whether disks are on their way.
func (s State) moving() bool { return s.Phase == Transfer || s.Phase == Verify }

// asked carries out a command, or refuses it and names those that are allowed.
func (m *machine) commandReceived(a CommandReceived) error {
	v := a.Verb
	if v == Resume && !m.Paused && m.moving() && !m.Cancelling {
		return nil // it runs already
	}
	if !slices.Contains(m.Allowed(), v) {
		return m.refuse(v)
	}
	switch v {
	case Pause:
		if !m.Paused {
			m.Paused = true
			m.do(StopDisks{})
		}
	case Resume:
		m.Paused = false
		m.unpause()
	case Cancel:
		m.Purge = m.Purge || a.Purge && !m.committing()
		m.cancel()
	case Sync, CutoverNow:
		m.Final = v == CutoverNow
		m.beginRound()
	case Retry:
		return m.retry(a)
	case Delete: // the journal forgets the job; the state has no part in it
	}
	return nil
}

func (m *machine) refuse(v Verb) error {
	var words []string
	for _, a := range m.Allowed() {
		words = append(words, string(a))
	}
	return Errorf(string(v), Conflict, "Allowed now: "+strings.Join(words, ", "), "job %s is %s (%s)", m.ID, m.Status(),
		m.Phase)
}

// unpause wakes the disks that ended or waited meanwhile; those that are still on their way out follow by themselves.
func (m *machine) unpause() {
	for i := range m.Disks {
		d := &m.Disks[i]
		if d.Phase == DiskBackoff {
			m.do(WakeDisk{d.Disk.ID, d.Attempt, d.BackoffUntil})
		}
	}
	if m.count(DiskRunning, DiskVerifying) == 0 {
		m.settle()
	}
}

func (m *machine) cancel() {
	if m.Cancelling || m.Phase == Cleanup {
		return
	}
	m.Cancelling, m.Paused = true, false
	switch m.Phase {
	case Queued, Waiting:
		m.cleanup(PhaseCancelled)
	case Transfer, Verify:
		m.do(StopDisks{})
		m.settle()
	default:
		if !m.Step.Until.IsZero() {
			m.cleanup(PhaseCancelled)
			return
		}
		m.do(StopStep{})
	}
}

// committing says whether the job will end as completed, so that a cancel comes too late to change that.
func (m *machine) committing() bool { return m.Outcome == Completed }

// limited changes limits; it is refused when there is nothing left to limit.
func (m *machine) limited(e Limited) error {
	if m.Phase.Terminal() {
		return Errorf("limit", Conflict, "Limits are for a job that has not ended", "job %s is %s", m.ID, m.Status())
	}
	o := &m.Spec.Options
	if e.Bandwidth != nil {
		o.Bandwidth = *e.Bandwidth
	}
	if e.Disks != nil {
		o.Disks = *e.Disks
	}
	m.do(SetLimits{o.Bandwidth, o.Disks})
	return nil
}

// retry queues the job again. What is on the targets counts only as far as a checkpoint set vouches for it.
func (m *machine) retry(a CommandReceived) error {
	for _, id := range a.Disks {
		d, ok := m.DiskState(id)
		if !ok {
			return Errorf("retry", NotFound, "Its disks are in vmferry get disks "+string(m.ID), "job %s moves no %s",
				m.ID, id)
		}
		if d.Copied() && !a.Fresh {
			return Errorf("retry", Invalid, "Leave it out: it is brought in step with the others by what changed since",
				"%s has not failed", id)
		}
	}
	m.Fresh, m.FullOnly, m.Purge = a.Fresh, slices.Clone(a.Disks), false
	if a.Fresh {
		m.Partial = nil
	}
	m.Failure, m.Outcome, m.Cancelling, m.Paused = nil, "", false, false
	m.Final = m.Spec.Options.Cutover != CutoverManual
	m.EndedAt = time.Time{}
	m.sumUp()
	m.Disks = nil
	m.enter(Queued)
	return nil
}

// sumUp keeps what a round that will never be committed has moved, before its disks are forgotten.
func (m *machine) sumUp() {
	if len(m.Rounds) == 0 || m.Committed() {
		return
	}
	r := &m.Rounds[len(m.Rounds)-1]
	for _, d := range m.Disks {
		if d.Planned() {
			r.Counters.ToTransfer += d.ToTransfer
			r.Counters.Transferred += d.High
			r.Counters.Skipped += d.HighSkipped
			r.Resent += d.Resent()
		}
	}
}
