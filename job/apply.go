package job

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Apply folds one event into the state and returns the new state and what the daemon must do next. It does not change
// s. The new state must be durable before the first action begins.
//
// A late event (of an earlier attempt at a disk, of a step that is over) gives no actions and changes only Seq. A
// command that is not allowed now gives the old state and an error of kind Conflict that names the allowed commands.
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

// machine is one call of Apply: the state that it changes, and the actions that it asks for.
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
		m.admitted(e)
	case Restarted:
		m.restarted(e)
	case Inspected, CBTReady, SnapshotTaken, TargetsPrepared, Planned, SetCommitted, SnapshotGone, TargetsPurged,
		StepFailed, StepDue:
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
	m.ID, m.Mark, m.Spec, m.CreatedAt = e.ID, e.Mark, e.Spec, m.now
	m.Final = e.Spec.Options.Cutover != CutoverManual
	m.enter(Queued)
}

// enter ends the current phase and begins another, both at the machine's time.
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

func (m *machine) admitted(e Admitted) {
	if m.Phase != Queued {
		return
	}
	m.Mark = cmp.Or(m.Mark, e.Mark)
	if m.StartedAt.IsZero() {
		m.StartedAt = m.now
	}
	m.enter(Preflight)
	m.do(Inspect{})
}

// step handles the answers to the actions of the job itself. An answer to an action of another phase is late, and
// ignored.
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
			m.repeat()
		}
		return
	default:
	}
	if !m.expected(ev) {
		return
	}
	if m.Outcome == "" {
		m.Failure = nil // the retry succeeded
	}
	m.advance(ev)
}

// expected says whether the event answers the action that the phase waits for.
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

// advance moves the job on after a step that succeeded.
func (m *machine) advance(ev Event) {
	switch e := ev.(type) {
	case Inspected:
		m.inspected(e)
	case CBTReady:
		if e.Enabled {
			m.Notes = append(m.Notes, "changed block tracking was off and has been switched on")
		}
		m.VM.CBTEnabled = true
		m.unlessCancelled(m.beginRound)
	case SnapshotTaken:
		m.HeldSnapshot.Ref, m.HeldSnapshot.Snapshot, m.HeldSnapshot.TakenAt = e.Snapshot.Ref, e.Snapshot, m.now
		m.unlessCancelled(func() { m.connect(e.Snapshot.Disks) })
	case TargetsPrepared:
		m.targetsPrepared(e)
		m.unlessCancelled(func() { m.do(PlanReads{}) })
	case Planned:
		m.planned(e)
	case SetCommitted:
		m.setCommitted()
	case SnapshotGone:
		m.HeldSnapshot = HeldSnapshot{}
		if m.Phase == Cleanup {
			m.purgeOrEnd()
			return
		}
		m.unlessCancelled(func() { m.enter(Waiting) })
	case TargetsPurged:
		m.Made, m.Partial, m.Kept = nil, nil, nil
		m.enter(m.Outcome)
	default:
	}
}

// unlessCancelled calls next. If a cancel came while the step ran, it cleans up instead.
func (m *machine) unlessCancelled(next func()) {
	if m.Cancelling {
		m.cleanup(PhaseCancelled)
		return
	}
	next()
}

// inspected takes the VM and its targets. The base of the first round is the committed set or, if there is none, the
// partial set of this job.
func (m *machine) inspected(e Inspected) {
	if f := m.anotherVM(e.VM); f != nil && !m.Cancelling {
		m.Failure = f
		m.cleanup(Failed)
		return
	}
	m.VM, m.Base, m.Unverified = e.VM, e.Base, false
	m.Notes = append(m.Notes, e.Notes...)
	switch {
	case m.Fresh:
		m.Base = nil
	case m.Base == nil && m.Partial != nil: // of this VM: another one was refused above
		m.Base, m.Unverified = m.Partial, true
	}
	m.made(e.Absent)
	m.Disks = nil
	for _, d := range e.VM.Disks {
		i := slices.IndexFunc(e.Targets, func(t Target) bool { return t.Disk == d.ID })
		if i >= 0 {
			m.Disks = append(m.Disks, DiskState{Disk: d, Target: e.Targets[i].URI, Mode: Auto, Phase: DiskPending})
		}
	}
	m.unlessCancelled(func() { m.enter(EnablingCBT); m.do(EnableCBT{}) })
}

// anotherVM is the failure of a retry that found another VM than the job began with: a name can lead to another one
// meanwhile, and the targets hold the first one.
func (m *machine) anotherVM(now VM) *Failure {
	was := m.VM
	if was.UUID == "" || now.UUID == was.UUID &&
		(was.VCenterID == "" || now.VCenterID == "" || was.VCenterID == now.VCenterID) {
		return nil
	}
	return &Failure{
		Phase: Preflight, Kind: Conflict, At: m.now,
		Message: fmt.Sprintf("%s is another VM than the one that this job moves: %s (%s) now, and %s (%s) before",
			m.Spec.VM, now.Path, now.UUID, was.Path, was.UUID),
		Next: "Run another job for that VM, with targets of its own",
	}
}

// made remembers targets that did not exist before the job.
func (m *machine) made(uris []string) {
	for _, uri := range uris {
		if !slices.Contains(m.Made, uri) {
			m.Made = append(m.Made, uri)
		}
	}
}

// beginRound asks for a snapshot. The snapshot's mark is in the state, and durable, before the snapshot can exist.
func (m *machine) beginRound() {
	n := len(m.Rounds) + 1
	m.Rounds = append(m.Rounds, Round{Number: n, StartedAt: m.now, Mode: Auto})
	for i, d := range m.Disks {
		m.Disks[i] = DiskState{
			Disk: d.Disk, Target: d.Target, TargetIdentity: d.TargetIdentity, Volume: d.Volume, Stamped: d.Stamped,
			Mode: Auto, Phase: DiskPending, Restarts: d.Restarts, LastCause: d.LastCause,
		}
	}
	m.HeldSnapshot = m.snapshotOf(n)
	m.enter(Snapshot)
	m.takeSnapshot()
}

// snapshotOf names the snapshot of a round. In journals of versions without marks the name has another form.
func (m *machine) snapshotOf(round int) HeldSnapshot {
	if m.Mark == "" {
		return HeldSnapshot{Name: fmt.Sprintf("vmferry/%s/%d", m.ID, round)}
	}
	return HeldSnapshot{
		Name: fmt.Sprintf("vmferry-%s-%d", m.ID, round), Mark: fmt.Sprintf("%s.%d", m.Mark, round),
	}
}

func (m *machine) takeSnapshot() {
	m.do(TakeSnapshot{m.HeldSnapshot.Name, m.HeldSnapshot.Mark, m.Spec.Options.Quiesce})
}

func (m *machine) dropSnapshot() { m.do(DropSnapshot(m.HeldSnapshot.SnapshotRef())) }

// connect goes on with the disks that the snapshot froze. If they are not those of the job, the job fails.
func (m *machine) connect(disks []Disk) {
	if f := m.frozen(disks); f != nil {
		m.Failure = f
		m.cleanup(Failed)
		return
	}
	m.enter(Connect)
	m.do(PrepareTargets{})
}

// targetsPrepared takes each disk's mode, and the identity of its target.
func (m *machine) targetsPrepared(e TargetsPrepared) {
	m.made(e.Made)
	m.Step = StepRetry{} // PlanReads has retries of its own
	for _, p := range e.Disks {
		if i := m.disk(p.Disk.ID); i >= 0 {
			m.applyPlan(&m.Disks[i], p)
		}
	}
}

// applyPlan takes the plan of one disk, and notes the reason of a full copy. A disk that was added to the VM since
// preflight gets its target by its first plan; a target never changes within a job.
func (m *machine) applyPlan(d *DiskState, p DiskPlan) {
	d.Target = cmp.Or(d.Target, p.Target)
	d.Disk, d.Mode, d.ToTransfer, d.TargetIdentity, d.Zero = p.Disk, p.Mode, p.ToTransfer, p.TargetIdentity, p.Zero
	d.Volume, d.Stamped = p.Volume, p.Stamped
	d.takeKept(p)
	if p.Reason != "" {
		m.Notes = append(m.Notes, fmt.Sprintf("round %d: %s goes %s: %s", m.Round(), p.Disk.ID, p.Mode, p.Reason))
	}
}

// prepared says whether the targets of the current round are prepared, that is, whether each disk has a mode.
func (s State) prepared() bool {
	return !slices.ContainsFunc(s.Disks, func(d DiskState) bool { return d.Mode == Auto || d.Mode == "" })
}

// planned begins the transfer of all disks.
func (m *machine) planned(e Planned) {
	mode := Incremental
	for _, p := range e.Disks {
		i := m.disk(p.Disk.ID)
		if i < 0 {
			continue
		}
		m.applyPlan(&m.Disks[i], p)
		if p.Mode == Full {
			mode = Full
		}
		if p.Kept != nil {
			m.Notes = append(m.Notes, m.keptNote(p))
		}
	}
	r := &m.Rounds[len(m.Rounds)-1]
	r.Mode = mode
	for _, d := range m.Disks {
		r.Kept += d.Kept.Sum()
	}
	m.unlessCancelled(func() {
		m.Partial, m.Kept = nil, nil // the first byte of this round makes them untrue
		m.enter(Transfer)
		for i := range m.Disks {
			m.start(&m.Disks[i])
		}
	})
}

// setCommitted ends the round: the targets equal the snapshot. After the last round the job cleans up and completes.
// After any other round it removes the snapshot and waits.
func (m *machine) setCommitted() {
	r := &m.Rounds[len(m.Rounds)-1]
	r.EndedAt = m.now
	for _, d := range m.Disks {
		r.Counters.ToTransfer += d.ToTransfer
		r.Counters.Transferred += d.Counters.Transferred
		r.Counters.Skipped += d.Counters.Skipped
		r.Counters.Verified += d.Counters.Verified
		r.Resent += d.Resent()
		r.Waited = r.Waited.And(d.Waited)
	}
	set := m.set()
	m.Base, m.Unverified, m.Fresh, m.FullOnly = &set, false, false, nil
	switch {
	case m.Cancelling:
		m.cleanup(PhaseCancelled)
	case m.Final:
		m.cleanup(Completed)
	default:
		m.dropSnapshot()
	}
}

// Committed says whether the current round's set is durable.
func (s State) Committed() bool {
	n := len(s.Rounds)
	return n > 0 && !s.Rounds[n-1].EndedAt.IsZero()
}

// set is the checkpoint set of the current round.
func (m *machine) set() CheckpointSet {
	set := CheckpointSet{
		VMUUID: m.VM.UUID, Job: m.ID, Mark: m.Mark, Round: m.Round(), Snapshot: m.HeldSnapshot.Ref, Committed: m.now,
	}
	for _, d := range m.Disks {
		set.Disks = append(set.Disks, DiskCheckpoint{
			Disk: d.Disk.ID, BackingID: d.Disk.BackingID, Capacity: d.Disk.Capacity, ChangeID: d.Disk.ChangeID,
			Target: d.Target, TargetIdentity: d.TargetIdentity, Volume: d.Volume,
		})
	}
	return set
}

// cleanup removes the snapshot. After that the job ends with this outcome.
func (m *machine) cleanup(outcome Phase) {
	if n := len(m.Rounds); outcome != Completed && n > 0 && !m.Committed() {
		m.Kept = m.keep()
		if m.leavesPartial() {
			m.Partial = m.partial()
		}
	}
	m.Outcome = outcome
	m.enter(Cleanup)
	if m.HeldSnapshot.Name == "" {
		m.purgeOrEnd()
		return
	}
	m.dropSnapshot()
}

// leavesPartial says whether the current round leaves a partial set if it is not committed: there is no committed one.
func (m *machine) leavesPartial() bool {
	return m.Base == nil || m.Rounds[len(m.Rounds)-1].Mode == Full
}

// partial is the checkpoint set of the disks that are still good after a round that will not be committed and that
// dropped the committed set. A disk that is copied and flushed has the checkpoint of this round. A disk that moves only
// changes has its checkpoint from before the round. If no disk is good, the partial set of an earlier round stays; it
// is nil once this round has been planned.
func (m *machine) partial() *CheckpointSet {
	set := m.set()
	disks := set.Disks
	set.Disks = nil
	for i, c := range disks {
		was, ok := m.Base.Disk(c.Disk)
		switch d := m.Disks[i]; {
		case d.Copied() && c.ChangeID != "":
			if d.Keep {
				c.Writers = Writers{Round: c.ChangeID}
			}
			set.Disks = append(set.Disks, c)
		case ok && d.Mode == Incremental:
			if d.Keep {
				was.Writers = Writers{d.Disk.ChangeID, d.Writer}
			}
			set.Disks = append(set.Disks, was)
		}
	}
	if len(set.Disks) == 0 {
		return m.Partial
	}
	return &set
}

// purgeOrEnd follows when the job has no snapshot: it removes the targets that the job made if the cancel asked for
// that, else it ends the job.
func (m *machine) purgeOrEnd() {
	if m.Purge && m.Outcome == PhaseCancelled && len(m.Made) > 0 {
		m.do(PurgeTargets{slices.Clone(m.Made)})
		return
	}
	m.enter(m.Outcome)
}

// repeat asks again for the action of the phase.
func (m *machine) repeat() {
	switch m.Phase {
	case Preflight:
		m.do(Inspect{})
	case EnablingCBT:
		m.do(EnableCBT{})
	case Snapshot:
		m.takeSnapshot()
	case Connect:
		if m.prepared() {
			m.do(PlanReads{})
		} else {
			m.do(PrepareTargets{})
		}
	case Commit:
		if m.Committed() {
			m.dropSnapshot()
		} else {
			m.do(CommitSet{m.set()})
		}
	case Cleanup:
		if m.HeldSnapshot.Name == "" {
			m.purgeOrEnd()
		} else {
			m.dropSnapshot()
		}
	case Queued, Transfer, Verify, Waiting, Completed, Failed, PhaseCancelled:
	}
}

// stepFailed decides whether the step is tried again. What is unavailable is waited for, any other failure has a
// budget. The removal of a snapshot is retried without end while the kind of failure is retryable. A snapshot or a
// target that can't be removed is named in a note.
func (m *machine) stepFailed(e StepFailed) {
	f := &Failure{Phase: e.Phase, Kind: e.Kind, Message: e.Message, Next: e.Next, At: m.now}
	if m.Cancelling && m.Phase != Cleanup {
		m.cleanup(PhaseCancelled)
		return
	}
	dropping := m.Unending()
	if m.tryStepAgain(e, f, dropping) {
		return
	}
	if m.Phase == Cleanup && m.HeldSnapshot.Name == "" {
		m.Notes = append(m.Notes, "the targets could not be removed: "+e.Message)
		m.enter(m.Outcome)
		return
	}
	if dropping {
		m.Notes = append(m.Notes, fmt.Sprintf("snapshot %s (%s) could not be removed: %s", m.HeldSnapshot.Name,
			cmp.Or(m.HeldSnapshot.Ref, "reference unknown"), e.Message))
		if m.Phase == Cleanup {
			m.enter(m.Outcome)
			return
		}
	}
	m.Failure = f
	m.cleanup(Failed)
}

// tryStepAgain plans the next try of a step that failed, and says whether there is one.
func (m *machine) tryStepAgain(e StepFailed, f *Failure, dropping bool) bool {
	if !e.Kind.Retryable() {
		return false
	}
	next := StepRetry{Attempt: m.Step.Attempt + 1, Waits: m.Step.Waits}
	tries, policy := next.Attempt-next.Waits, stepPolicy()
	if isWaitedFor(e.Kind, e.What) {
		next.Waits++
		next.Wait, policy = m.Step.Wait.failed(e.What, e.Since, m.now), stepWaitPolicy()
		next.Wait.Message = e.Message
		tries = next.Wait.Tries
	}
	next.Until = m.now.Add(policy.Pause(tries, string(m.ID)))
	switch {
	case dropping:
	case next.Wait.Waits():
		at, ok := m.next(&next.Wait, policy, string(m.ID))
		if !ok {
			m.outOfPatience(f, next.Wait)
			return false
		}
		next.Until = at
	case tries > policy.Budget:
		return false
	}
	m.Step = next
	if m.Outcome == "" {
		m.Failure = f
	}
	m.do(WakeStep{m.Phase, next.Attempt, next.Until})
	return true
}

// restarted repeats what the job did when the daemon ended. A cancel that was not finished goes on to the cleanup,
// except while the set is committed.
func (m *machine) restarted(e Restarted) {
	m.notRunning()
	m.Step.Until = time.Time{}
	m.Mark = cmp.Or(m.Mark, e.Mark)
	if m.Cancelling && m.Phase != Cleanup && m.Phase != Commit {
		m.cleanup(PhaseCancelled)
		return
	}
	for _, seen := range e.Disks {
		i := m.disk(seen.Disk)
		if i >= 0 && seen.Round == m.Round() {
			d := &m.Disks[i]
			if seen.Transferred > d.High {
				d.Wait = Wait{} // it went on before the daemon ended
			}
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
	m.repeat()
}
