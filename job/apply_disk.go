package job

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// start begins the next attempt at a disk.
func (m *machine) start(d *DiskState) {
	d.Attempt++
	d.Phase, d.BackoffUntil = DiskRunning, time.Time{}
	m.do(MoveDisk{d.Disk.ID, d.Attempt})
}

// diskEvent handles the answers of attempts, and the ends of the pauses between them.
func (m *machine) diskEvent(ev Event) {
	if m.Phase != Transfer && m.Phase != Verify {
		return
	}
	switch e := ev.(type) {
	case DiskMoved:
		if d := m.current(e.Disk, e.Attempt, DiskRunning); d != nil {
			d.addAttempt(e.Counters)
			d.Phase, d.Streak, d.Wait = DiskCopied, 0, Wait{}
		}
	case DiskVerified:
		if d := m.current(e.Disk, e.Attempt, DiskVerifying); d != nil {
			d.Counters.Verified = e.Counters.Verified
			d.Phase, d.Wait = DiskDone, Wait{}
		}
	case AttemptFailed:
		if d := m.current(e.Disk, e.Attempt, DiskRunning, DiskVerifying); d != nil {
			m.attemptFailed(d, e)
		}
	case DiskDue:
		if d := m.current(e.Disk, e.Attempt, DiskBackoff); d != nil {
			m.diskDue(d)
		}
	default:
	}
	m.settle()
}

// current finds the disk of an event about its newest attempt while the disk is in one of those phases. Any other event
// is late, and gives nil.
func (m *machine) current(id DiskID, attempt int, in ...DiskPhase) *DiskState {
	i := m.disk(id)
	if i < 0 || m.Disks[i].Attempt != attempt || !slices.Contains(in, m.Disks[i].Phase) {
		return nil
	}
	return &m.Disks[i]
}

// addAttempt adds the counters of an attempt that is over to the sums of the round.
func (d *DiskState) addAttempt(c Counters) {
	d.Counters = c
	d.Sent += c.Transferred - c.ResumedTransferred
	d.High = max(d.High, c.Transferred)
	d.HighSkipped = max(d.HighSkipped, c.Skipped)
	d.Waited = d.Waited.And(c.Waited())
}

// attemptFailed decides what follows an attempt that failed: the disk is paused, tried again after a pause, or has
// failed. The other disks go on.
func (m *machine) attemptFailed(d *DiskState, e AttemptFailed) {
	verifying := d.Phase == DiskVerifying
	newDurable := e.Counters.Durable - d.Counters.Durable
	// what an attempt found durable, after one that failed too early to look, is no progress
	progress := min(newDurable, e.Counters.Durable-e.Counters.ResumedTransferred-e.Counters.ResumedSkipped)
	if verifying {
		progress = e.Counters.Verified - d.HighVerified
		d.HighVerified = max(d.HighVerified, e.Counters.Verified)
	} else {
		d.addAttempt(e.Counters)
	}
	if e.Kind == Cancelled {
		d.Phase = DiskPaused
		return
	}
	d.LastCause = &Failure{Phase: m.Phase, Disk: d.Disk.ID, Kind: e.Kind, Message: e.Message, Next: e.Next, At: m.now}
	if isWaitedFor(e.Kind, e.What) {
		m.waitForDisk(d, e, progress)
		return
	}
	d.Wait = Wait{}
	d.Streak++
	if newDurable >= countedProgress {
		d.Streak = 1
	}
	policy := Policies()[e.Kind]
	if d.Streak > policy.Budget {
		d.Phase = DiskFailed
		return
	}
	m.backOff(d, m.now.Add(policy.Pause(d.Streak, string(m.ID)+string(d.Disk.ID))))
}

// backOff lets the next attempt follow at that time, unless the job is paused or cancelled.
func (m *machine) backOff(d *DiskState, at time.Time) {
	d.Phase, d.Restarts, d.BackoffUntil = DiskBackoff, d.Restarts+1, at
	if !m.Paused && !m.Cancelling {
		m.do(WakeDisk{d.Disk.ID, d.Attempt, d.BackoffUntil})
	}
}

// diskDue begins the next attempt after a pause, unless the job is paused or cancelled.
func (m *machine) diskDue(d *DiskState) {
	if m.Paused || m.Cancelling {
		return
	}
	m.resume(d)
}

// resume begins the disk's next attempt at what the phase does: a copy, or a verification.
func (m *machine) resume(d *DiskState) {
	if m.Phase == Verify {
		d.Attempt++
		d.Phase, d.BackoffUntil = DiskVerifying, time.Time{}
		m.do(VerifyDisk{d.Disk.ID, d.Attempt})
		return
	}
	m.start(d)
}

// diskRestarted goes on with a disk after a restart of the daemon.
func (m *machine) diskRestarted(d *DiskState) {
	switch d.Phase {
	case DiskRunning, DiskVerifying:
		if m.Paused || m.Cancelling {
			d.Phase = DiskPaused
			return
		}
		m.resume(d)
	case DiskBackoff:
		m.do(WakeDisk{d.Disk.ID, d.Attempt, d.BackoffUntil})
	case DiskPending, DiskPaused, DiskCopied, DiskDone, DiskFailed:
	}
}

// settle moves the job on when no disk has anything to do in this phase any more.
func (m *machine) settle() {
	busy := m.count(DiskRunning, DiskVerifying)
	switch {
	case m.Cancelling:
		if busy == 0 {
			m.cleanup(PhaseCancelled)
		}
	case m.Paused:
	case busy+m.count(DiskBackoff, DiskPending) > 0:
	case m.count(DiskPaused) > 0:
		for i := range m.Disks {
			if m.Disks[i].Phase == DiskPaused {
				m.resume(&m.Disks[i])
			}
		}
	case m.count(DiskFailed) > 0:
		m.failDisks()
	case m.Phase == Transfer:
		m.enter(Verify)
		m.verify()
	case m.count(DiskDone) == len(m.Disks):
		m.enter(Commit)
		m.do(CommitSet{m.set()})
	}
}

// count is the number of disks in any of these phases.
func (m *machine) count(in ...DiskPhase) (n int) {
	for _, d := range m.Disks {
		if slices.Contains(in, d.Phase) {
			n++
		}
	}
	return n
}

// verify reads every target back. With verify mode none it marks all disks as done.
func (m *machine) verify() {
	none := m.Spec.Options.Verify == VerifyNone
	for i := range m.Disks {
		d := &m.Disks[i]
		if none {
			d.Phase = DiskDone
			continue
		}
		d.Phase = DiskVerifying
		m.do(VerifyDisk{d.Disk.ID, d.Attempt})
	}
	if none {
		m.settle()
	}
}

// failDisks fails the job, because at least one of its disks has failed. The bytes of the other disks stay on their
// targets.
func (m *machine) failDisks() {
	var names []string
	f := Failure{Phase: m.Phase, At: m.now}
	for _, d := range m.Disks {
		if d.Phase != DiskFailed || d.LastCause == nil {
			continue
		}
		names = append(names, string(d.Disk.ID))
		if f.Disk == "" {
			f.Disk, f.Kind, f.Next = d.Disk.ID, d.LastCause.Kind, d.LastCause.Next
			f.Message = fmt.Sprintf("%s: %s", d.Disk.ID, d.LastCause.Message)
		}
	}
	again := fmt.Sprintf(
		"vmferry retry %s --disk %s copies what failed again; the other disks only move what changed since", m.ID,
		strings.Join(names, ","))
	if next := strings.TrimRight(f.Next, "."); next != "" {
		again = next + ". " + again
	}
	f.Next = again
	if len(names) > 1 {
		f.Message = fmt.Sprintf("%d disks failed (%s); %s", len(names), strings.Join(names, ", "), f.Message)
	}
	m.Failure = &f
	m.cleanup(Failed)
}
