package job

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Apply folds one event into the state and says what must be done next. It changes nothing but what it returns. The
// new state must be durable before any of the actions is begun.
//
// An event that comes too late (a disk's earlier attempt, a step that is over) changes nothing and gives no actions;
// its Seq grows all the same. A command that is not allowed now is an error of kind Conflict that names those which
// are; the state is then the old one.
func (s State) Apply(ev Event, now time.Time) (State, []Action, error) {
	m := machine{State: s.clone(), now: now}
	if s.Seq == 0 {
		sub, ok := ev.(Submitted)
		if !ok {
			return s, nil, Errorf("apply "+ev.event(), Internal, "", "the first event of a job must be its submission")
		}
		m.submitted(sub)
	} else if err := m.apply(ev); err != nil {
		return s, nil, err
	}
	m.Seq++
	return m.State, m.actions, nil
}

// machine is one step of Apply.
type machine struct {
	State
	now     time.Time
	actions []Action
}

func (m *machine) do(a ...Action) { m.actions = append(m.actions, a...) }

func (m *machine) apply(ev Event) error {
	switch e := ev.(type) {
	case Submitted:
		return Errorf("submit", Conflict, "", "job %s exists already", m.ID)
	case Admitted:
		m.admitted()
	case Restarted:
		m.restarted(e)
	case Inspected, CBTReady, SnapshotTaken, TargetsPrepared, Planned, SetCommitted, SnapshotGone, TargetsPurged, StepFailed, StepDue:
		m.step(ev)
	case DiskMoved, DiskVerified, AttemptFailed, DiskDue:
		m.diskEvent(ev)
	case CommandReceived:
		return m.commandReceived(e)
	case Limited:
		return m.limited(e)
	}
	return nil
}

func (m *machine) submitted(e Submitted) {
	m.ID, m.Spec, m.CreatedAt = e.ID, e.Spec, m.now
	m.Final = e.Spec.Options.Cutover != CutoverManual
	m.enter(Queued)
}

// enter goes to a phase and writes down when.
func (m *machine) enter(p Phase) {
	if n := len(m.Phases); n > 0 && m.Phases[n-1].EndedAt.IsZero() {
		m.Phases[n-1].EndedAt = m.now
	}
	m.Phase, m.Step = p, StepRetry{}
	run := PhaseRun{Phase: p, Round: m.Round(), StartedAt: m.now}
	if p.Terminal() {
		run.EndedAt, m.EndedAt = m.now, m.now
	}
	m.Phases = append(m.Phases, run)
}

func (m *machine) admitted() {
	if m.Phase != Queued {
		return
	}
	if m.StartedAt.IsZero() {
		m.StartedAt = m.now
	}
	m.enter(Preflight)
	m.do(Inspect{})
}

// step handles what answers an action of the job itself. What does not belong to the phase is late.
func (m *machine) step(ev Event) {
	switch e := ev.(type) {
	case StepFailed:
		if e.Phase == m.Phase {
			m.stepFailed(e)
		}
		return
	case StepDue:
		if e.Phase == m.Phase && e.Attempt == m.Step.Attempt && !m.Step.Until.IsZero() {
			m.Step.Until = time.Time{}
			m.again()
		}
		return
	default:
	}
	if !m.expected(ev) {
		return
	}
	if m.Outcome == "" {
		m.Failure = nil // whatever was retried has worked
	}
	m.advance(ev)
}

// expected says whether the event answers what the phase does.
func (m *machine) expected(ev Event) bool {
	switch ev.(type) {
	case Inspected:
		return m.Phase == Preflight
	case CBTReady:
		return m.Phase == EnablingCBT
	case SnapshotTaken:
		return m.Phase == Snapshot
	case TargetsPrepared:
		return m.Phase == Connect && !m.prepared()
	case Planned:
		return m.Phase == Connect
	case SetCommitted:
		return m.Phase == Commit && !m.Committed()
	case SnapshotGone:
		return m.Phase == Cleanup || m.Phase == Commit
	case TargetsPurged:
		return m.Phase == Cleanup
	default:
		return false
	}
}

func (m *machine) advance(ev Event) {
	switch e := ev.(type) {
	case Inspected:
		m.inspected(e)
	case CBTReady:
		if e.Enabled {
			m.Notes = append(m.Notes, "changed block tracking was off and has been switched on")
		}
		m.VM.CBTEnabled = true
		m.orStop(m.beginRound)
	case SnapshotTaken:
		m.Held.Ref, m.Held.Snapshot, m.Held.TakenAt = e.Snapshot.Ref, e.Snapshot, m.now
		m.orStop(func() { m.enter(Connect); m.do(PrepareTargets{}) })
	case TargetsPrepared:
		m.targetsPrepared(e)
		m.orStop(func() { m.do(PlanReads{}) })
	case Planned:
		m.planned(e)
	case SetCommitted:
		m.setCommitted()
	case SnapshotGone:
		m.Held = HeldSnapshot{}
		if m.Phase == Cleanup {
			m.purgeOrEnd()
			return
		}
		m.orStop(func() { m.enter(Waiting) })
	case TargetsPurged:
		m.Made, m.Partial = nil, nil
		m.enter(m.Outcome)
	default:
	}
}

// orStop goes on, unless somebody asked to cancel meanwhile.
func (m *machine) orStop(next func()) {
	if m.Cancelling {
		m.cleanup(PhaseCancelled)
		return
	}
	next()
}

func (m *machine) inspected(e Inspected) {
	m.VM, m.Base, m.Unverified = e.VM, e.Base, false
	switch {
	case m.Fresh:
		m.Base = nil
	case m.Base == nil && m.Partial != nil && m.Partial.VMUUID == e.VM.UUID:
		m.Base, m.Unverified = m.Partial, true
	}
	for _, uri := range e.Absent {
		if !slices.Contains(m.Made, uri) {
			m.Made = append(m.Made, uri)
		}
	}
	m.Disks = nil
	for _, d := range e.VM.Disks {
		i := slices.IndexFunc(e.Targets, func(t Target) bool { return t.Disk == d.ID })
		if i >= 0 {
			m.Disks = append(m.Disks, DiskState{Disk: d, Target: e.Targets[i].URI, Mode: Auto, Phase: DiskPending})
		}
	}
	m.orStop(func() { m.enter(EnablingCBT); m.do(EnableCBT{}) })
}

// beginRound asks for a snapshot. The intent is in the state before the snapshot can exist.
func (m *machine) beginRound() {
	n := len(m.Rounds) + 1
	m.Rounds = append(m.Rounds, Round{Number: n, StartedAt: m.now, Mode: Auto})
	for i, d := range m.Disks {
		m.Disks[i] = DiskState{Disk: d.Disk, Target: d.Target, TargetIdentity: d.TargetIdentity, Mode: Auto,
			Phase: DiskPending, Restarts: d.Restarts, LastCause: d.LastCause}
	}
	m.Held = HeldSnapshot{Name: fmt.Sprintf("vmferry/%s/%d", m.ID, n)}
	m.enter(Snapshot)
	m.do(TakeSnapshot{m.Held.Name, m.Spec.Options.Quiesce})
}

// targetsPrepared takes each disk's mode, and its target as it is now.
func (m *machine) targetsPrepared(e TargetsPrepared) {
	m.Step = StepRetry{} // what is asked next has its own retries
	for _, p := range e.Disks {
		if i := m.disk(p.Disk.ID); i >= 0 {
			m.take(&m.Disks[i], p)
		}
	}
}

// take takes the plan of one disk, and notes why it moves more than could be hoped for.
func (m *machine) take(d *DiskState, p DiskPlan) {
	d.Disk, d.Mode, d.ToTransfer, d.TargetIdentity, d.Zero = p.Disk, p.Mode, p.ToTransfer, p.TargetIdentity, p.Zero
	if p.Reason != "" {
		m.Notes = append(m.Notes, fmt.Sprintf("round %d: %s goes %s: %s", m.Round(), p.Disk.ID, p.Mode, p.Reason))
	}
}

// prepared says whether the targets of the current round are: then each disk's mode is decided.
func (s State) prepared() bool {
	return !slices.ContainsFunc(s.Disks, func(d DiskState) bool { return d.Mode == Auto || d.Mode == "" })
}

func (m *machine) planned(e Planned) {
	mode := Incremental
	for _, p := range e.Disks {
		i := m.disk(p.Disk.ID)
		if i < 0 {
			continue
		}
		m.take(&m.Disks[i], p)
		if p.Mode == Full {
			mode = Full
		}
	}
	m.Rounds[len(m.Rounds)-1].Mode = mode
	m.Partial = nil // from the first byte on it says nothing any more
	m.orStop(func() {
		m.enter(Transfer)
		for i := range m.Disks {
			m.start(&m.Disks[i])
		}
	})
}

// setCommitted: the targets are in step. The last round cleans up and is done; any other lets the snapshot go and
// waits.
func (m *machine) setCommitted() {
	r := &m.Rounds[len(m.Rounds)-1]
	r.EndedAt = m.now
	for _, d := range m.Disks {
		r.Counters.ToTransfer += d.ToTransfer
		r.Counters.Transferred += d.Counters.Transferred
		r.Counters.Skipped += d.Counters.Skipped
		r.Counters.Verified += d.Counters.Verified
		r.Resent += d.Resent()
	}
	set := m.set()
	m.Base, m.Unverified, m.Fresh, m.FullOnly = &set, false, false, nil
	switch {
	case m.Cancelling:
		m.cleanup(PhaseCancelled)
	case m.Final:
		m.cleanup(Completed)
	default:
		m.do(DropSnapshot{m.Held.Ref, m.Held.Name})
	}
}

// Committed says whether the current round's set is durable.
func (s State) Committed() bool {
	n := len(s.Rounds)
	return n > 0 && !s.Rounds[n-1].EndedAt.IsZero()
}

// set is the checkpoint set of the current round.
func (m *machine) set() CheckpointSet {
	set := CheckpointSet{VMUUID: m.VM.UUID, Job: m.ID, Round: m.Round(), Snapshot: m.Held.Ref, Committed: m.now}
	for _, d := range m.Disks {
		set.Disks = append(set.Disks, DiskCheckpoint{
			Disk: d.Disk.ID, BackingID: d.Disk.BackingID, Capacity: d.Disk.Capacity, ChangeID: d.Disk.ChangeID,
			Target: d.Target, TargetIdentity: d.TargetIdentity,
		})
	}
	return set
}

// cleanup lets go of what is held at the source, then ends as told.
func (m *machine) cleanup(outcome Phase) {
	if n := len(m.Rounds); outcome != Completed && n > 0 && !m.Committed() &&
		(m.Base == nil || m.Rounds[n-1].Mode == Full) {
		m.Partial = m.partial()
	}
	m.Outcome = outcome
	m.enter(Cleanup)
	if m.Held.Name == "" {
		m.purgeOrEnd()
		return
	}
	m.do(DropSnapshot{m.Held.Ref, m.Held.Name})
}

// partial is what the targets are good for after a round that will not be committed, and that ended the set before it:
// the disks that are whole, flushed, and those that only move changes, of which those before the round hold. It is nil
// if there are none. What an earlier round left is kept as long as this one has written nothing.
func (m *machine) partial() *CheckpointSet {
	set := m.set()
	disks := set.Disks
	set.Disks = nil
	for i, c := range disks {
		was, ok := m.Base.Disk(c.Disk)
		switch d := m.Disks[i]; {
		case d.Copied() && c.ChangeID != "":
			set.Disks = append(set.Disks, c)
		case ok && d.Mode == Incremental:
			set.Disks = append(set.Disks, was)
		}
	}
	if len(set.Disks) == 0 {
		return m.Partial
	}
	return &set
}

// purgeOrEnd is for when nothing is held at the source any more.
func (m *machine) purgeOrEnd() {
	if m.Purge && m.Outcome == PhaseCancelled && len(m.Made) > 0 {
		m.do(PurgeTargets{slices.Clone(m.Made)})
		return
	}
	m.enter(m.Outcome)
}

// again repeats the action of the phase.
func (m *machine) again() {
	switch m.Phase {
	case Preflight:
		m.do(Inspect{})
	case EnablingCBT:
		m.do(EnableCBT{})
	case Snapshot:
		m.do(TakeSnapshot{m.Held.Name, m.Spec.Options.Quiesce})
	case Connect:
		if m.prepared() {
			m.do(PlanReads{})
		} else {
			m.do(PrepareTargets{})
		}
	case Commit:
		if m.Committed() {
			m.do(DropSnapshot{m.Held.Ref, m.Held.Name})
		} else {
			m.do(CommitSet{m.set()})
		}
	case Cleanup:
		if m.Held.Name == "" {
			m.purgeOrEnd()
		} else {
			m.do(DropSnapshot{m.Held.Ref, m.Held.Name})
		}
	case Queued, Transfer, Verify, Waiting, Completed, Failed, PhaseCancelled:
	}
}

// stepFailed decides whether the step is tried again. Letting go of a snapshot is an obligation: it is tried for as long
// as trying can help, and what can't be removed is told.
func (m *machine) stepFailed(e StepFailed) {
	f := &Failure{Phase: e.Phase, Kind: e.Kind, Message: e.Message, Next: e.Next, At: m.now}
	if m.Cancelling && m.Phase != Cleanup {
		m.cleanup(PhaseCancelled)
		return
	}
	attempt := m.Step.Attempt + 1
	letting := m.Phase == Cleanup || m.Phase == Commit && m.Committed()
	if e.Kind.Retryable() && (letting || attempt <= stepPolicy().Budget) {
		m.Step = StepRetry{Attempt: attempt, Until: m.now.Add(stepPolicy().Pause(attempt, string(m.ID)))}
		if m.Outcome == "" {
			m.Failure = f
		}
		m.do(WakeStep{m.Phase, attempt, m.Step.Until})
		return
	}
	if m.Phase == Cleanup && m.Held.Name == "" {
		m.Notes = append(m.Notes, "the targets could not be removed: "+e.Message)
		m.enter(m.Outcome)
		return
	}
	if letting {
		m.Notes = append(m.Notes, fmt.Sprintf("snapshot %s (%s) could not be removed: %s", m.Held.Name,
			cmp.Or(m.Held.Ref, "reference unknown"), e.Message))
		if m.Phase == Cleanup {
			m.enter(m.Outcome)
			return
		}
	}
	m.Failure = f
	m.cleanup(Failed)
}

// restarted begins again what the daemon was doing when it ended.
func (m *machine) restarted(e Restarted) {
	m.Step.Until = time.Time{}
	if m.Cancelling && m.Phase != Cleanup && m.Phase != Commit {
		m.cleanup(PhaseCancelled)
		return
	}
	for _, seen := range e.Disks {
		i := m.disk(seen.Disk)
		if i >= 0 && seen.Round == m.Round() {
			d := &m.Disks[i]
			d.High = max(d.High, seen.Transferred)
			d.HighSkipped = max(d.HighSkipped, seen.Skipped)
			d.Sent = max(d.Sent, d.High+seen.Resent)
		}
	}
	if m.Phase == Transfer || m.Phase == Verify {
		for i := range m.Disks {
			m.diskRestarted(&m.Disks[i])
		}
		m.settle()
		return
	}
	m.again()
}
