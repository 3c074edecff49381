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
	Sync       Verb = "sync"    // one more round, then wait again
	CutoverNow Verb = "cutover" // a last round, then complete
	Delete     Verb = "delete"
)

// Allowed lists the commands that are allowed now. Pause and cancel stay allowed after they were given: the second one
// changes nothing.
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

// moving says whether the phase is one in which disks have attempts.
func (s State) moving() bool { return s.Phase == Transfer || s.Phase == Verify }

// commandReceived carries out a command, or refuses it with an error that names the allowed commands.
func (m *machine) commandReceived(a CommandReceived) error {
	v := a.Verb
	if v == Resume && !m.Paused && m.moving() && !m.Cancelling {
		return nil // nothing is paused
	}
	if !slices.Contains(m.Allowed(), v) {
		return m.refuse(v)
	}
	switch v {
	case Pause:
		if !m.Paused {
			m.Paused = true
			for i := range m.Disks {
				m.Disks[i].Wait.pause(m.now)
			}
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
	case Delete: // the journal deletes the job; its state does not change
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

// unpause goes on with the disks after a resume. A disk that is in a pause between attempts gets its timer again. The
// paused disks begin their next attempt when the last stopped attempt has ended; settle does that.
func (m *machine) unpause() {
	for i := range m.Disks {
		d := &m.Disks[i]
		d.Wait.resume(m.now)
		if d.Phase == DiskBackoff {
			m.do(WakeDisk{d.Disk.ID, d.Attempt, d.BackoffUntil})
		}
	}
	if m.count(DiskRunning, DiskVerifying) == 0 {
		m.settle()
	}
}

// cancel cleans up at once if nothing runs. Else it asks the attempts or the step to end; the cleanup follows when the
// last of them has answered.
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

// committing says whether it is certain that the job ends as completed. A cancel no longer changes that.
func (m *machine) committing() bool { return m.Outcome == Completed }

// limited changes limits. A job that has ended refuses it.
func (m *machine) limited(e Limited) error {
	if m.Phase.Terminal() {
		return Errorf("limit", Conflict, "Change the limits of a job that has not ended", "job %s is %s", m.ID,
			m.Status())
	}
	o := &m.Spec.Options
	if e.Bandwidth != nil {
		o.Bandwidth = *e.Bandwidth
	}
	if e.Disks != nil {
		o.Disks = *e.Disks
	}
	if e.Patience != nil {
		o.Patience = *e.Patience
	}
	if e.LastRoundPatience != nil {
		o.LastRoundPatience = *e.LastRoundPatience
	}
	m.do(SetLimits{o.Bandwidth, o.Disks})
	return nil
}

// retry queues the job again. Its next round copies in full, except the disks that the committed set or the partial set
// names.
func (m *machine) retry(a CommandReceived) error {
	for _, id := range a.Disks {
		d, ok := m.DiskState(id)
		if !ok {
			return Errorf("retry", NotFound, "vmferry get disks "+string(m.ID)+" lists its disks",
				"job %s has no disk %s", m.ID, id)
		}
		if d.Copied() && !a.Fresh {
			return Errorf("retry", Invalid, "Leave it out; the retry copies what has changed on it since",
				"%s has not failed", id)
		}
	}
	m.Fresh, m.FullOnly, m.Purge = a.Fresh, slices.Clone(a.Disks), false
	if a.Fresh {
		m.Partial, m.Kept = nil, nil
	}
	m.Failure, m.Outcome, m.Cancelling, m.Paused = nil, "", false, false
	m.Final = m.Spec.Options.Cutover != CutoverManual
	m.EndedAt = time.Time{}
	m.sumUp()
	m.Disks = nil
	m.enter(Queued)
	return nil
}

// sumUp adds the counters of the disks to a round that will never be committed. It is called before the retry drops the
// states of the disks.
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
			r.Waited = r.Waited.And(d.Waited)
		}
	}
}
