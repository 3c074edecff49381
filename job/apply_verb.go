package job

import (
	"slices"
	"strings"
	"time"
)

// Allowed lists the commands that make sense now. A command that is in force already is allowed: it changes nothing.
func (s State) Allowed() []Verb {
	switch {
	case s.Phase == Completed:
		return []Verb{Delete}
	case s.Phase.Terminal():
		return []Verb{Retry, Delete}
	case s.Stopping, s.Phase == Cleanup:
		return []Verb{Cancel}
	case s.Phase == Waiting:
		return []Verb{Sync, CutoverNow, Cancel}
	case s.Phase == Transfer && s.Paused:
		return []Verb{Pause, Resume, Cancel}
	case s.Phase == Transfer:
		return []Verb{Pause, Cancel}
	default:
		return []Verb{Cancel}
	}
}

// asked carries out a command, or refuses it and names those that are allowed.
func (m *machine) asked(v Verb) error {
	if v == Resume && !m.Paused && m.Phase == Transfer && !m.Stopping {
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
		m.cancel()
	case Sync, CutoverNow:
		m.Final = v == CutoverNow
		m.beginRound()
	case Retry:
		m.retry()
	case Delete: // the journal forgets the job; the state has no part in it
	}
	return nil
}

func (m *machine) refuse(v Verb) error {
	var words []string
	for _, a := range m.Allowed() {
		words = append(words, string(a))
	}
	return Errorf(string(v), Conflict, "Allowed now: "+strings.Join(words, ", "), "job %s is %s (%s)", m.ID, m.Status(), m.Phase)
}

// unpause wakes the disks that ended or waited meanwhile; those that are still on their way out follow by themselves.
func (m *machine) unpause() {
	for i := range m.Disks {
		d := &m.Disks[i]
		if d.Phase == DiskBackoff {
			m.do(WakeDisk{d.Disk.ID, d.Attempt, d.BackoffUntil})
		}
	}
	if m.count(DiskRunning) == 0 {
		m.settle()
	}
}

func (m *machine) cancel() {
	if m.Stopping || m.Phase == Cleanup {
		return
	}
	m.Stopping, m.Paused = true, false
	switch m.Phase {
	case Queued, Waiting:
		m.cleanup(Stopped)
	case Transfer, Verify:
		m.do(StopDisks{})
		m.settle()
	default:
		if !m.Step.Until.IsZero() {
			m.cleanup(Stopped)
			return
		}
		m.do(StopStep{})
	}
}

// retry queues the job again. What is on the targets counts only as far as a checkpoint set vouches for it.
func (m *machine) retry() {
	m.Failure, m.Outcome, m.Stopping, m.Paused = nil, "", false, false
	m.Final = m.Spec.Options.Cutover != CutoverManual
	m.EndedAt = time.Time{}
	m.Disks = nil
	m.enter(Queued)
}
