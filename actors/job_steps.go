package actors

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// act begins one action. The state that asks for it is durable.
func (s *supervisor) act(c actor.Context, a job.Action) {
	switch a := a.(type) {
	case job.Inspect:
		s.runStep(c, s.inspect)
	case job.EnableCBT:
		s.runStep(c, s.enableCBT)
	case job.TakeSnapshot:
		s.runStep(c, s.takeSnapshot(a))
	case job.PrepareTargets:
		s.runStep(c, s.prepareTargets)
	case job.PlanReads:
		s.runStep(c, s.planReads)
	case job.CommitSet:
		s.runStep(c, s.commitSet(a))
	case job.DropSnapshot:
		s.runStep(c, s.dropSnapshot(a))
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
		s.runStep(c, s.purgeTargets)
	case job.SetLimits:
		c.Send(s.spawner, messages.LimitJob{ID: s.state.ID, Limits: job.TransferLimits(a)})
	}
}

// runStep runs a step in a goroutine. Its result comes back as an event.
func (s *supervisor) runStep(c actor.Context, f func(ctx context.Context, st job.State) (job.Event, error)) {
	st := s.state
	s.step.stop()
	s.silence.stop()
	heard := &silence{aggregator: s.aggregator, job: st.ID}
	heard.listenTo(c)
	s.silence = heard
	s.step = begin(c, s.life, func(ctx context.Context) any {
		ev, err := f(heard.calls.In(ctx), st)
		if err != nil {
			failed := stepFailed(st.Phase, err)
			failed.Since = heard.since(err)
			return stepDone{event: failed}
		}
		return stepDone{event: ev}
	}, func(err error) any { return stepDone{event: stepFailed(st.Phase, err)} })
}

// wakeAt applies an event at that time.
func (s *supervisor) wakeAt(c actor.Context, at time.Time, ev job.Event) {
	cancel := scheduler.NewTimerScheduler(c.ActorSystem().Root).SendOnce(max(0, at.Sub(s.now())), c.Self(),
		due{event: ev})
	if len(s.timers) >= 64 { // the oldest has fired long ago
		s.timers = s.timers[1:]
	}
	s.timers = append(s.timers, cancel)
}

// inspect checks the VM, its disks and its targets, before anything is changed.
func (s *supervisor) inspect(ctx context.Context, st job.State) (job.Event, error) {
	vm, err := s.vcenter.Inspect(ctx, st.Spec.VM)
	if err != nil {
		return nil, err
	}
	targets, err := s.assign(ctx, st, vm)
	if err != nil {
		return nil, err
	}
	if err := s.transfers.Ready(); err != nil {
		return nil, err
	}
	infos, err := s.claim(ctx, st, vm, targets)
	if err != nil {
		return nil, err
	}
	absent, notes := []string{}, []string(nil)
	for i, info := range infos {
		if !info.Exists {
			absent = append(absent, targets[i].URI)
		}
		if info.Note != "" {
			notes = append(notes, info.Note)
		}
	}
	base, err := s.sets.Set(ctx, vm.UUID)
	if err != nil {
		return nil, err
	}
	return job.Inspected{VM: vm, Targets: targets, Base: base, Absent: absent, Notes: notes}, nil
}

// assign gives each disk of the VM its target: that of the spec, the one that it had last, or the default one.
func (s *supervisor) assign(ctx context.Context, st job.State, vm job.VM) ([]job.Target, error) {
	known, err := s.targets.Known(ctx, job.OwnerOf(vm))
	if err != nil {
		return nil, job.At(job.PeerTarget, err)
	}
	return job.Assign(st.Spec, vm, s.root, known)
}

// claim claims the targets of the VM's disks. Both are in the same order.
func (s *supervisor) claim(ctx context.Context, st job.State, vm job.VM, targets []job.Target) (
	[]job.TargetInfo, error,
) {
	claims := make([]job.VolumeClaim, 0, len(targets))
	for i, t := range targets {
		owner := job.OwnerOf(vm)
		owner.Disk = t.Disk
		claims = append(claims, job.VolumeClaim{
			VolumeRef: job.VolumeRef{Job: st.ID, Disk: t.Disk, Target: t.URI, Capacity: vm.Disks[i].Capacity},
			Owner:     owner, Adopt: st.Spec.Options.Adopt,
		})
	}
	return atTarget(ctx, "", func() ([]job.TargetInfo, error) { return s.targets.Claim(ctx, claims, nil) })
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
		snap, err := s.vcenter.Snapshot(ctx, st.VM, job.SnapshotRef{Name: a.Name, Mark: a.Mark}, a.Quiesce)
		if err != nil {
			return nil, err
		}
		return job.SnapshotTaken{Snapshot: snap}, nil
	}
}

// prepareTargets opens the targets that exist, decides for each disk whether it moves in full or only what changed, and
// makes the targets that are missing.
func (s *supervisor) prepareTargets(ctx context.Context, st job.State) (job.Event, error) {
	made, err := s.assignAdded(ctx, &st)
	if err != nil {
		return nil, err
	}
	plans, full, err := s.modes(ctx, st)
	if err != nil {
		return nil, err
	}
	if full && st.Spec.Mode == job.Incremental && st.Round() == 1 {
		return nil, notIncremental(plans)
	}
	if err := errors.Join(mayGoFull(st, plans), strict(st, plans)); err != nil {
		return nil, err
	}
	if full {
		// The first byte of a full copy makes the stored set untrue.
		if err := s.sets.DropSet(ctx, st.VM.UUID); err != nil {
			return nil, err
		}
	}
	for i := range plans {
		ref := volumeRef(st, i, plans[i].Disk)
		info, err := atTarget(ctx, ref.Target, func() (job.TargetInfo, error) { return s.targets.Prepare(ctx, ref) })
		if err != nil {
			return nil, fmt.Errorf("target of %s: %w", plans[i].Disk.ID, err)
		}
		plans[i].TargetIdentity, plans[i].Volume, plans[i].Zero = info.Identity, info.Volume, info.Zero
		plans[i].Stamped = info.Stamped
	}
	return job.TargetsPrepared{Disks: plans, Made: made}, nil
}

// assignAdded claims a target for each disk that was added to the VM since preflight, and puts it into st. made are the
// URIs of those that do not exist yet.
func (s *supervisor) assignAdded(ctx context.Context, st *job.State) (made []string, err error) {
	vm := st.VM
	vm.Disks = nil
	for _, d := range st.Disks {
		if d.Target == "" {
			vm.Disks = append(vm.Disks, d.Disk)
		}
	}
	if len(vm.Disks) == 0 {
		return nil, nil
	}
	targets, err := s.assign(ctx, *st, vm)
	if err != nil {
		return nil, err
	}
	infos, err := s.claim(ctx, *st, vm, targets)
	if err != nil {
		return nil, err
	}
	st.Disks = slices.Clone(st.Disks)
	for i, t := range targets {
		j := slices.IndexFunc(st.Disks, func(d job.DiskState) bool { return d.Disk.ID == t.Disk })
		st.Disks[j].Target = t.URI
		if !infos[i].Exists {
			made = append(made, t.URI)
		}
	}
	return made, nil
}

// atTarget calls f, whose errors arise at the target. The call is noted if the target is an export: a file or a device
// that is made ready can be slow, and has no server that could be gone.
func atTarget[R any](ctx context.Context, target string, f func() (R, error)) (R, error) {
	var call *job.Call
	if scheme, _, ok := strings.Cut(target, "://"); ok && strings.HasPrefix(scheme, "nbd") {
		call = job.Calling(ctx, job.PeerTarget)
	}
	r, err := f()
	return r, job.At(job.PeerTarget, call.Done(err))
}

// volumeRef names the target of the i-th disk. The disk is as the snapshot froze it.
func volumeRef(st job.State, i int, frozen job.Disk) job.VolumeRef {
	return job.VolumeRef{Job: st.ID, Disk: frozen.ID, Target: st.Disks[i].Target, Capacity: frozen.Capacity}
}

// planReads asks the source what each disk must move.
func (s *supervisor) planReads(ctx context.Context, st job.State) (job.Event, error) {
	plans := make([]job.DiskPlan, 0, len(st.Disks))
	for _, d := range st.Disks {
		p := job.DiskPlan{
			Disk: d.Disk, Mode: d.Mode, TargetIdentity: d.TargetIdentity, Volume: d.Volume, Stamped: d.Stamped,
			Zero: d.Zero, Writer: d.Writer, Kept: d.Kept,
		}
		if err := s.planDisk(ctx, st, &p); err != nil {
			return nil, err
		}
		plans = append(plans, p)
	}
	if err := s.turnedFull(ctx, st, plans); err != nil {
		return nil, err
	}
	return job.Planned{Disks: plans}, nil
}

// turnedFull checks whether the disks may go full whose change IDs are no longer good, and drops the set if there are
// any. Nothing has been written in this round yet.
func (s *supervisor) turnedFull(ctx context.Context, st job.State, plans []job.DiskPlan) error {
	if !slices.ContainsFunc(plans, func(p job.DiskPlan) bool {
		d, _ := st.DiskState(p.Disk.ID)
		return p.Mode == job.Full && d.Mode == job.Incremental
	}) {
		return nil
	}
	if st.Spec.Mode == job.Incremental && st.Round() == 1 {
		return notIncremental(plans)
	}
	if err := mayGoFull(st, plans); err != nil {
		return err
	}
	return s.sets.DropSet(ctx, st.VM.UUID)
}

// notIncremental refuses a round for which an incremental one was asked.
func notIncremental(plans []job.DiskPlan) error {
	return job.Errorf("plan", job.Conflict, "Use mode auto or full", "an incremental round is not possible: %s",
		reasons(plans))
}

// mayGoFull refuses a full copy of a disk that a retry of certain disks does not name.
func mayGoFull(st job.State, plans []job.DiskPlan) error {
	for _, p := range plans {
		if len(st.FullOnly) > 0 && p.Mode == job.Full && !slices.Contains(st.FullOnly, p.Disk.ID) {
			return job.Errorf("plan", job.Conflict, "Retry without --disk",
				"%s would have to be copied in full, too: %s", p.Disk.ID, whyFull(p))
		}
	}
	return nil
}

// strict refuses a full copy onto a target that others have written to, where the job asks for that.
func strict(st job.State, plans []job.DiskPlan) error {
	for _, p := range plans {
		if st.Spec.Options.Strict && p.Foreign != "" {
			return job.Errorf("plan", job.Conflict,
				"Find out who did it; without --strict a job copies the disk in full", "%s: %s", p.Disk.ID, p.Foreign)
		}
	}
	return nil
}

// whyFull is the reason of a full copy.
func whyFull(p job.DiskPlan) string {
	if p.Kept != nil {
		return cmp.Or(p.Reason, "it was never copied as a whole")
	}
	return cmp.Or(p.Reason, "it was never copied")
}

// modes opens the targets that exist, and decides each disk's mode by what its target is now. full says that at least
// one disk goes full.
func (s *supervisor) modes(ctx context.Context, st job.State) (plans []job.DiskPlan, full bool, err error) {
	asked := st.Spec.Mode
	if st.Round() > 1 {
		asked = job.Auto
	}
	for i, d := range st.Disks {
		frozen, ok := st.HeldSnapshot.Snapshot.Disk(d.Disk.ID)
		if !ok {
			return nil, false, job.Errorf("plan", job.Conflict, "Retry the job", "the snapshot has no disk %s",
				d.Disk.ID)
		}
		ref := volumeRef(st, i, frozen)
		info, err := atTarget(ctx, ref.Target, func() (job.TargetInfo, error) { return s.targets.Open(ctx, ref) })
		if err != nil {
			return nil, false, fmt.Errorf("target of %s: %w", d.Disk.ID, err)
		}
		p := job.DiskPlan{Disk: frozen, Target: d.Target, Foreign: info.Foreign, Writer: info.ChangeID}
		p.Mode, p.Reason = job.ModeFor(asked, frozen, d.Target, info, st.Base)
		keep(&p, st, info)
		if p.Mode == job.Incremental {
			p.Reason = info.Note
		}
		full = full || p.Mode == job.Full
		plans = append(plans, p)
	}
	return plans, full, nil
}

// keep lets the disk go on from what a round that was not committed made durable of it, if that still is what it was.
// How much that is, is known when its reads are planned.
func keep(p *job.DiskPlan, st job.State, info job.TargetInfo) {
	from, ok := st.KeptCopy(p.Disk.ID)
	if !ok {
		return
	}
	holds, why := from.Holds(p.Disk, p.Target, info)
	if holds {
		p.Kept = &job.KeptPart{Round: from.Round}
		return
	}
	p.Reason = cmp.Or(p.Reason, why)
}

// reasons are the disks that go full, each with the reason.
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

// planDisk asks how many bytes the disk must move. If its change ID is no longer good, it goes full.
func (s *supervisor) planDisk(ctx context.Context, st job.State, p *job.DiskPlan) error {
	areas, known, err := s.transfers.Areas(ctx, readTask(st, *p))
	if p.Mode == job.Incremental && job.KindOf(err) == job.CBTInvalid {
		p.Mode, p.Reason = job.Full, "the change ID of the last round is no longer good"
		areas, known, err = s.transfers.Areas(ctx, readTask(st, *p))
	}
	if err != nil {
		return err
	}
	p.ToTransfer = p.Disk.Capacity
	if known {
		p.ToTransfer = areas.Sum()
	}
	if err := s.keepPart(ctx, st, p, areas, known); err != nil {
		return err
	}
	s.log.Info("planned", "job_id", st.ID, "vm", st.VM.Name, "disk", p.Disk.ID, "mode", string(p.Mode),
		"total_bytes", p.ToTransfer, "bytes_kept", p.Kept.Sum(), "reason", p.Reason)
	return nil
}

// keepPart makes what an earlier round made durable of the disk the beginning of its copy.
func (s *supervisor) keepPart(ctx context.Context, st job.State, p *job.DiskPlan, areas job.Extents, known bool) error {
	p.Keep = p.Disk.ChangeID != "" && p.Volume != ""
	if p.Kept == nil {
		return nil
	}
	from, _ := st.KeptCopy(p.Disk.ID)
	kept, why, err := s.transfers.Keep(ctx, readTask(st, *p), from, areas, known)
	if err != nil {
		return err
	}
	if p.Kept = kept; p.Mode == job.Full {
		p.Reason = cmp.Or(p.Reason, why)
	}
	return nil
}

// readTask is the part of a task that Areas needs.
func readTask(st job.State, p job.DiskPlan) job.TransferTask {
	return transferTask(st, job.DiskState{Disk: p.Disk, Mode: p.Mode, TargetIdentity: p.TargetIdentity})
}

// transferTask is the next attempt at a disk. Its counters are those of an attempt that has not begun.
func transferTask(st job.State, d job.DiskState) job.TransferTask {
	d.Counters = d.Counters.Unbegun()
	t := job.TransferTask{
		Job: st.ID, Round: st.Round(), VM: st.VM, Snapshot: st.HeldSnapshot.Snapshot, Disk: d,
		Unverified: st.Unverified,
		Limits:     job.TransferLimits{Bandwidth: st.Spec.Options.Bandwidth, Disks: st.Spec.Options.Disks},
	}
	if d.Mode == job.Incremental {
		was, _ := st.Base.Disk(d.Disk.ID)
		t.Since = was.ChangeID
	}
	return t
}

func (s *supervisor) commitSet(a job.CommitSet) func(context.Context, job.State) (job.Event, error) {
	return func(ctx context.Context, st job.State) (job.Event, error) {
		if err := s.vcenter.CheckSnapshot(ctx, st.VM, st.HeldSnapshot.SnapshotRef()); err != nil {
			return nil, err
		}
		set, err := s.confirm(ctx, st, a.Set)
		if err != nil {
			return nil, err
		}
		if err := s.sets.Commit(ctx, set); err != nil {
			return nil, err
		}
		if err := s.transfers.Discard(ctx, st.ID); err != nil {
			return nil, err
		}
		return job.SetCommitted{}, nil
	}
}

// confirm checks that the names of the targets still lead to what was written, and that no other has written to them
// since our last write. The set names the volumes' rows in the ledger, which say how our last writer left them.
func (s *supervisor) confirm(ctx context.Context, st job.State, set job.CheckpointSet) (job.CheckpointSet, error) {
	set.Disks = slices.Clone(set.Disks)
	for i, d := range set.Disks {
		ref := job.VolumeRef{Job: st.ID, Disk: d.Disk, Target: d.Target, Capacity: d.Capacity}
		info, err := atTarget(ctx, ref.Target, func() (job.TargetInfo, error) {
			return s.targets.Confirm(ctx, ref, d.TargetIdentity)
		})
		if err != nil {
			return set, fmt.Errorf("target of %s: %w", d.Disk, err)
		}
		set.Disks[i].TargetIdentity, set.Disks[i].TargetStamp = info.Identity, info.Stamp
		set.Disks[i].Volume = info.Volume
	}
	return set, nil
}

// purgeTargets removes the targets that the job made, after the checkpoint set and before the checkpoints.
func (s *supervisor) purgeTargets(ctx context.Context, st job.State) (job.Event, error) {
	if err := s.sets.DropSet(ctx, st.VM.UUID); err != nil {
		return nil, err
	}
	for _, d := range st.Disks {
		ref := job.VolumeRef{Job: st.ID, Disk: d.Disk.ID, Target: d.Target, Capacity: d.Disk.Capacity}
		if err := s.targets.Purge(ctx, ref); err != nil {
			return nil, job.At(job.PeerTarget, err)
		}
	}
	return job.TargetsPurged{}, s.transfers.Discard(ctx, st.ID)
}

func (s *supervisor) dropSnapshot(a job.DropSnapshot) func(context.Context, job.State) (job.Event, error) {
	return func(ctx context.Context, st job.State) (job.Event, error) {
		err := s.vcenter.RemoveSnapshot(ctx, st.VM, job.SnapshotRef(a))
		if err != nil && job.KindOf(err) != job.NotFound {
			return nil, err
		}
		return job.SnapshotGone{}, nil
	}
}

// spawn starts the Disk of one attempt.
func (s *supervisor) spawn(c actor.Context, id job.DiskID, verify job.VerifyMode) {
	d, ok := s.state.DiskState(id)
	if !ok {
		return
	}
	task := transferTask(s.state, d)
	task.Verify = verify
	kind := "move"
	if verify != "" {
		kind = "verify"
	}
	name := fmt.Sprintf("%s-%s-%d.%d", id, kind, s.state.Round(), d.Attempt)
	pid, err := c.SpawnNamed(diskProps(diskDeps{s.spawner, task}), name)
	if err != nil {
		s.log.Error("a disk could not be started", "job_id", s.state.ID, "disk", id, "err", err)
		s.handle(c, envelope{event: job.AttemptFailed{
			Disk: id, Attempt: d.Attempt, Counters: d.Counters, Kind: job.Internal, Message: err.Error(),
		}})
		return
	}
	s.disks[id] = running{pid: pid, attempt: d.Attempt}
}
