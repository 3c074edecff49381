package actors

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// act carries out one action. The state that asked for it is durable.
func (s *supervisor) act(c actor.Context, a job.Action) {
	switch a := a.(type) {
	case job.Inspect:
		s.run(c, s.inspect)
	case job.EnableCBT:
		s.run(c, s.enableCBT)
	case job.TakeSnapshot:
		s.run(c, s.takeSnapshot(a))
	case job.Plan:
		s.run(c, s.plan)
	case job.CommitSet:
		s.run(c, s.commitSet(a))
	case job.DropSnapshot:
		s.run(c, s.dropSnapshot(a))
	case job.StopStep:
		s.step.stop()
	case job.MoveDisk:
		s.spawn(c, a.Disk, "")
	case job.VerifyDisk:
		s.spawn(c, a.Disk, s.state.Spec.Options.Verify)
	case job.StopDisks:
		for _, r := range s.disks {
			c.Send(r.pid, messages.Stop{})
		}
	case job.WakeDisk:
		s.wakeAt(c, a.At, job.DiskDue{Disk: a.Disk, Attempt: a.Attempt})
	case job.WakeStep:
		s.wakeAt(c, a.At, job.StepDue{Phase: a.Phase, Attempt: a.Attempt})
	case job.PurgeTargets:
		s.run(c, s.purgeTargets(a))
	case job.SetLimits:
		s.setLimits(a.Bandwidth, a.Disks)
	}
}

// run does a step beside the actor. Its answer is an event.
func (s *supervisor) run(c actor.Context, f func(ctx context.Context, st job.State) (job.Event, error)) {
	st := s.state
	s.step.stop()
	s.step = begin(c, s.life, func(ctx context.Context) any {
		ev, err := f(ctx, st)
		if err != nil {
			return stepDone{event: fell(st.Phase, err)}
		}
		return stepDone{event: ev}
	}, func(err error) any { return stepDone{event: fell(st.Phase, err)} })
}

func (s *supervisor) wakeAt(c actor.Context, at time.Time, ev job.Event) {
	cancel := scheduler.NewTimerScheduler(c.ActorSystem().Root).SendOnce(max(0, at.Sub(s.now())), c.Self(),
		due{event: ev})
	if len(s.timers) >= 64 { // those of long ago have fired
		s.timers = s.timers[1:]
	}
	s.timers = append(s.timers, cancel)
}

// inspect looks at everything that can be wrong before anything is changed.
func (s *supervisor) inspect(ctx context.Context, st job.State) (job.Event, error) {
	vm, err := s.vcenter.Inspect(ctx, st.Spec.VM)
	if err != nil {
		return nil, err
	}
	targets, err := job.Assign(st.Spec, vm, s.root)
	if err != nil {
		return nil, err
	}
	seen := map[string]job.DiskID{}
	absent := []string{}
	for i, t := range targets {
		fact, err := s.mover.Check(ctx, t.URI, vm.Disks[i].Capacity)
		if err != nil {
			return nil, fmt.Errorf("target of %s: %w", t.Disk, err)
		}
		if other, ok := seen[fact.Place]; ok {
			return nil, job.Errorf("check targets", job.Invalid, "Give each disk a target of its own",
				"%s and %s have the same target", other, t.Disk)
		}
		seen[fact.Place] = t.Disk
		if !fact.Exists {
			absent = append(absent, t.URI)
		}
	}
	base, err := s.sets.Set(ctx, vm.UUID)
	if err != nil {
		return nil, err
	}
	return job.Inspected{VM: vm, Targets: targets, Base: base, Absent: absent}, nil
}

func (s *supervisor) enableCBT(ctx context.Context, st job.State) (job.Event, error) {
	enabled, err := s.vcenter.EnsureCBT(ctx, st.VM)
	if err != nil {
		return nil, err
	}
	return job.CBTReady{Enabled: enabled}, nil
}

func (s *supervisor) takeSnapshot(a job.TakeSnapshot) func(context.Context, job.State) (job.Event, error) {
	return func(ctx context.Context, st job.State) (job.Event, error) {
		snap, err := s.vcenter.Snapshot(ctx, st.VM, a.Name, a.Quiesce)
		if err != nil {
			return nil, err
		}
		return job.SnapshotTaken{Snapshot: snap}, nil
	}
}

// plan decides for each disk how much of it moves, and makes the targets.
func (s *supervisor) plan(ctx context.Context, st job.State) (job.Event, error) {
	modes, full := s.modes(ctx, st)
	if full && st.Spec.Mode == job.Incremental && st.Round() == 1 {
		return nil, job.Errorf("plan", job.Conflict, "Use mode auto or full",
			"an incremental round is not possible: %s", reasons(modes))
	}
	if err := mayGoFull(st, modes); err != nil {
		return nil, err
	}
	if full {
		// From the first byte of a full round on, the old set says nothing about the targets any more.
		if err := s.sets.DropSet(ctx, st.VM.UUID); err != nil {
			return nil, err
		}
	}
	for i := range modes {
		fact, err := s.mover.Prepare(ctx, st.Disks[i].Target, modes[i].Disk.Capacity)
		if err != nil {
			return nil, fmt.Errorf("target of %s: %w", modes[i].Disk.ID, err)
		}
		modes[i].TargetIdentity, modes[i].Zero = fact.Identity, fact.Zero
		if err := s.size(ctx, st, &modes[i]); err != nil {
			return nil, err
		}
	}
	return job.Planned{Disks: modes}, nil
}

// mayGoFull keeps a retry of certain disks to those.
func mayGoFull(st job.State, plans []job.DiskPlan) error {
	for _, p := range plans {
		if len(st.FullOnly) > 0 && p.Mode == job.Full && !slices.Contains(st.FullOnly, p.Disk.ID) {
			return job.Errorf("plan", job.Conflict, "Retry without --disk", "%s would have to be copied anew, too: %s",
				p.Disk.ID, whyFull(p))
		}
	}
	return nil
}

// whyFull is why a disk can't only move what changed.
func whyFull(p job.DiskPlan) string { return cmp.Or(p.Reason, "it was never copied") }

// modes is the decision before the vCenter was asked for areas.
func (s *supervisor) modes(ctx context.Context, st job.State) (plans []job.DiskPlan, full bool) {
	for _, d := range st.Disks {
		frozen, ok := st.Held.Snapshot.Disk(d.Disk.ID)
		if !ok {
			frozen = d.Disk
		}
		p := job.DiskPlan{Disk: frozen}
		asked := st.Spec.Mode
		if st.Round() > 1 {
			asked = job.Auto
		}
		fact, err := s.mover.Check(ctx, d.Target, frozen.Capacity)
		if err != nil {
			fact.Identity = ""
		}
		p.Mode, p.Reason = job.ModeFor(asked, frozen, d.Target, fact.Identity, fact.Stamp, st.Base)
		full = full || p.Mode == job.Full
		plans = append(plans, p)
	}
	return plans, full
}

func reasons(plans []job.DiskPlan) string {
	out := ""
	for _, p := range plans {
		if p.Mode == job.Full {
			if out != "" {
				out += "; "
			}
			out += fmt.Sprintf("%s: %s", p.Disk.ID, whyFull(p))
		}
	}
	return out
}

// size asks what the disk must move. A change ID that is no longer good turns this disk's round into a full one.
func (s *supervisor) size(ctx context.Context, st job.State, p *job.DiskPlan) error {
	areas, known, err := s.areas(ctx, st, *p)
	if p.Mode == job.Incremental && job.KindOf(err) == job.CBTInvalid {
		p.Mode, p.Reason = job.Full, "the change ID of the last round is no longer good"
		if err := s.sets.DropSet(ctx, st.VM.UUID); err != nil {
			return err
		}
		areas, known, err = s.areas(ctx, st, *p)
	}
	if err != nil {
		return err
	}
	p.ToTransfer = p.Disk.Capacity
	if known {
		p.ToTransfer = areas.Sum()
	}
	s.log.Info("planned", "job_id", st.ID, "vm", st.VM.Name, "disk", p.Disk.ID, "mode", string(p.Mode), "total_bytes",
		p.ToTransfer, "reason", p.Reason)
	return nil
}

// areas is what a disk must move: what changed since the last round, or what is allocated. known is false if nobody can
// say; then the whole disk is looked at.
func (s *supervisor) areas(ctx context.Context, st job.State, p job.DiskPlan) (areas job.Extents, known bool,
	err error) {
	if p.Mode == job.Incremental {
		was, _ := st.Base.Disk(p.Disk.ID)
		areas, err = s.vcenter.ChangedAreas(ctx, st.VM, st.Held.Snapshot, p.Disk.ID, was.ChangeID)
		return areas, err == nil, err
	}
	if p.Disk.ChangeID == "" {
		return nil, false, nil
	}
	areas, err = s.vcenter.ChangedAreas(ctx, st.VM, st.Held.Snapshot, p.Disk.ID, "*")
	if k := job.KindOf(err); k == job.CBTInvalid || k == job.Unsupported {
		return nil, false, nil // this datastore can't say what is allocated
	}
	return areas, err == nil, err
}

func (s *supervisor) commitSet(a job.CommitSet) func(context.Context, job.State) (job.Event, error) {
	return func(ctx context.Context, st job.State) (job.Event, error) {
		if err := s.sets.Commit(ctx, s.stamped(ctx, a.Set)); err != nil {
			return nil, err
		}
		if err := s.mover.Discard(ctx, st.ID); err != nil {
			return nil, err
		}
		return job.SetCommitted{}, nil
	}
}

// stamped notes how the targets look now, after the last write of ours. What another changes later is seen by that.
func (s *supervisor) stamped(ctx context.Context, set job.CheckpointSet) job.CheckpointSet {
	set.Disks = slices.Clone(set.Disks)
	for i, d := range set.Disks {
		fact, err := s.mover.Check(ctx, d.Target, d.Capacity)
		if err == nil && fact.Identity == d.TargetIdentity {
			set.Disks[i].TargetStamp = fact.Stamp
		}
	}
	return set
}

// purgeTargets removes what the job made, and what says that it is good for anything.
func (s *supervisor) purgeTargets(a job.PurgeTargets) func(context.Context, job.State) (job.Event, error) {
	return func(ctx context.Context, st job.State) (job.Event, error) {
		if err := s.sets.DropSet(ctx, st.VM.UUID); err != nil {
			return nil, err
		}
		for _, uri := range a.URIs {
			if err := s.mover.Purge(ctx, uri); err != nil {
				return nil, err
			}
		}
		return job.TargetsPurged{}, s.mover.Discard(ctx, st.ID)
	}
}

func (s *supervisor) dropSnapshot(a job.DropSnapshot) func(context.Context, job.State) (job.Event, error) {
	return func(ctx context.Context, st job.State) (job.Event, error) {
		err := s.vcenter.RemoveSnapshot(ctx, st.VM, a.Ref, a.Name)
		if err != nil && job.KindOf(err) != job.NotFound {
			return nil, err
		}
		return job.SnapshotGone{}, nil
	}
}

// spawn starts the actor of one attempt.
func (s *supervisor) spawn(c actor.Context, id job.DiskID, verify job.VerifyMode) {
	d, ok := s.state.DiskState(id)
	if !ok {
		return
	}
	st := s.state
	task := MoveTask{Job: st.ID, Round: st.Round(), VM: st.VM, Snapshot: st.Held.Snapshot, Disk: d,
		Unverified: st.Unverified}
	areas := func(ctx context.Context) (job.Extents, bool, error) {
		return s.areas(ctx, st, job.DiskPlan{Disk: d.Disk, Mode: d.Mode})
	}
	kind := "move"
	if verify != "" {
		kind = "verify"
	}
	props := diskProps(diskDeps{slots: s.slots, connections: s.connections, most: s.most, limiter: s.limiter,
		parent: s.life, mover: s.mover, aggregator: s.aggregator, task: task, verify: verify, areas: areas,
		tick: s.tick})
	name := fmt.Sprintf("%s-%s-%d.%d", id, kind, st.Round(), d.Attempt)
	pid, err := c.SpawnNamed(props, name)
	if err != nil {
		s.log.Error("a disk could not be started", "job_id", st.ID, "disk", id, "err", err)
		s.take(c, envelope{event: job.AttemptFailed{Disk: id, Attempt: d.Attempt, Counters: d.Counters, Kind: job.Internal,
			Message: err.Error()}})
		return
	}
	s.disks[id] = running{pid: pid, attempt: d.Attempt}
}
