package vsphere

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// ourMark is in the description of every snapshot that vmferry takes, on any node.
const ourMark = "vmferry-snapshot-v1"

const (
	ourText   = "Made by vmferry to copy this VM, and removed by it afterwards. Mark: " + ourMark
	nodeText  = " Node: "
	roundText = " Round: "
)

// description is the description of a snapshot that this node takes. mark is that of a job and its round: another job
// of the same id has another one.
func (c *Client) description(mark string) string {
	text := ourText
	if c.cfg.Owner != "" {
		text += nodeText + c.cfg.Owner
	}
	if mark != "" {
		text += roundText + mark
	}
	return text
}

// readDescription is the reverse of description. Descriptions of earlier versions have no mark, or neither node nor
// mark.
func readDescription(text string) (ours bool, node, mark string) {
	_, rest, ours := strings.Cut(text, ourMark)
	rest, mark, _ = strings.Cut(rest, roundText)
	_, node, _ = strings.Cut(rest, nodeText)
	return ours, strings.TrimSpace(node), strings.TrimSpace(mark)
}

// OurSnapshots lists all snapshots that vmferry took, of all VMs that the user may see, whichever node took them.
func (c *Client) OurSnapshots(ctx context.Context) (found []job.FoundSnapshot, err error) {
	const op = "look for snapshots"
	err = c.do(ctx, op, 0, func(ctx context.Context) error {
		found = nil
		vms, err := c.allVMs(ctx, "name", "snapshot")
		for _, m := range vms {
			if m.Snapshot == nil {
				continue
			}
			for _, s := range flatten(nil, m.Snapshot.RootSnapshotList) {
				if s.ours {
					found = append(found, job.FoundSnapshot{
						VM:          job.VM{Ref: m.Self.Value, Name: m.Name},
						SnapshotRef: job.SnapshotRef{Ref: s.ref, Name: s.name, Mark: s.mark},
						Owner:       s.owner, Activation: s.activation(), TakenAt: s.taken,
					})
				}
			}
		}
		return err
	})
	return found, err
}

const snapshotType = "VirtualMachineSnapshot"

func snapshotRef(ref string) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: snapshotType, Value: ref}
}

// Snapshot takes one snapshot of all disks of the VM, at one instant. If this node has taken the snapshot with this
// mark already, that one is returned instead; without a mark, the one with this name that has none. A name alone never
// makes a snapshot ours. want.Ref is not used. If the guest cannot be quiesced the snapshot is taken without quiescing,
// and Quiesced is false. Snapshot waits for a snapshot task that runs on the VM already. If the VM's reference leads to
// another VM now, the error is of kind Conflict.
//
// If ctx ends while the snapshot is taken, the snapshot is removed, which can take up to 10 minutes more, and the error
// is of kind Cancelled or Timeout. If ctx ends because the daemon stops, the snapshot is kept.
func (c *Client) Snapshot(ctx context.Context, vm job.VM, want job.SnapshotRef, quiesce bool) (job.VMSnapshot, error) {
	op := "take snapshot of " + vm.Name
	m, err := c.recentTasks(ctx, op, vm)
	if err == nil {
		err = c.sameVM(op, vm, m)
	}
	if err == nil {
		err = c.waitForSnapshotTasks(ctx, op, vm, m)
	}
	if err != nil {
		return job.VMSnapshot{}, err
	}
	all, err := c.snapshots(ctx, op, vm)
	if err != nil {
		return job.VMSnapshot{}, err
	}
	for _, s := range all {
		if c.isOwn(s, want) {
			c.log.Info("snapshot exists already", "vm", vm.Name, "snapshot", s.name, "ref", s.ref)
			return c.describeSnapshot(ctx, op, vm, s)
		}
		if s.ours && s.name == want.Name {
			c.log.Warn("a snapshot of the same name is of another node or job, and is left alone", "vm", vm.Name,
				"snapshot", s.name, "ref", s.ref, "node", s.owner)
		}
	}
	ref, err := c.createSnapshot(ctx, op, vm, want, quiesce)
	if err != nil {
		return job.VMSnapshot{}, err
	}
	snap, err := c.readSnapshot(ctx, op, vm, ref)
	if err == nil && quiesce && !snap.Quiesced {
		c.log.Warn("snapshot is not quiesced: the disks are as after a power failure", "vm", vm.Name, "snapshot",
			want.Name)
	}
	return snap, err
}

// CheckSnapshot says whether a snapshot of ours still is there. If another program has removed it, the error is of kind
// Conflict: what was read of it since may be newer than its instant.
func (c *Client) CheckSnapshot(ctx context.Context, vm job.VM, which job.SnapshotRef) error {
	op := "look for the snapshot of " + vm.Name
	all, err := c.snapshots(ctx, op, vm)
	if err != nil && !isAny(err, &types.ManagedObjectNotFound{}) {
		return err
	}
	for _, s := range all {
		if s.ref == which.Ref && s.ours && s.mark == which.Mark {
			return nil
		}
	}
	return job.Errorf(op, job.Conflict, "Find what removes snapshots of this VM, such as a backup, then retry the job",
		"snapshot %s (%s) was removed by another program while it was copied", which.Name, which.Ref)
}

// isOwn says whether a snapshot is the one that this node took for that round of that job.
func (c *Client) isOwn(s treeSnapshot, want job.SnapshotRef) bool {
	if !s.ours || s.owner != c.cfg.Owner || s.mark != want.Mark {
		return false
	}
	return want.Mark != "" || want.Name != "" && s.name == want.Name
}

// createSnapshot takes a snapshot, quiesced if quiesce is true and that is possible, and returns its reference.
func (c *Client) createSnapshot(ctx context.Context, op string, vm job.VM, want job.SnapshotRef,
	quiesce bool,
) (string, error) {
	ref, err := c.create(ctx, op, vm, want, quiesce)
	if quiesce && isQuiesceFault(err) {
		c.log.Warn("the guest could not be quiesced", "vm", vm.Name, "snapshot", want.Name, "err", err)
		ref, err = c.create(ctx, op, vm, want, false)
	}
	return ref, err
}

func (c *Client) create(ctx context.Context, op string, vm job.VM, want job.SnapshotRef, quiesce bool) (string, error) {
	task, err := c.start(ctx, op, func(ctx context.Context) (types.ManagedObjectReference, error) {
		res, err := methods.CreateSnapshot_Task(ctx, c.vim, &types.CreateSnapshot_Task{
			This: vmRef(vm), Name: want.Name, Description: c.description(want.Mark), Memory: false, Quiesce: quiesce,
		})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	})
	var result types.AnyType
	if err == nil {
		result, err = c.wait(ctx, op, task)
	}
	if err != nil && errors.Is(context.Cause(ctx), job.ErrStopping) {
		return "", err // the next start finds the snapshot by its mark
	}
	if err != nil && ctx.Err() != nil {
		return "", c.undoCreate(ctx, op, vm, want, task, err)
	}
	if err != nil {
		return "", err
	}
	ref, ok := result.(types.ManagedObjectReference)
	if !ok {
		return "", job.Errorf(op, job.Internal, "", "the task's result is a %s, not a snapshot", typeName(result))
	}
	return ref.Value, nil
}

// undoCreate removes the snapshot of a task whose caller gave up.
func (c *Client) undoCreate(ctx context.Context, op string, vm job.VM, want job.SnapshotRef,
	task types.ManagedObjectReference, cause error,
) error {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer done()
	want.Ref = ""
	if task.Value != "" {
		result, err := c.wait(ctx, op, task)
		if made, ok := result.(types.ManagedObjectReference); ok && err == nil {
			want.Ref = made.Value
		}
	}
	err := errors.Join(cause, c.RemoveSnapshot(ctx, vm, want))
	return &job.Error{Op: op, Kind: job.KindOf(cause), Err: err}
}

// isQuiesceFault says whether a task failed in a way in which one without quiescing may succeed.
func isQuiesceFault(err error) bool {
	if err == nil {
		return false
	}
	if isAny(err, &types.ToolsUnavailable{}, &types.QuiesceDatastoreIOForHAFailed{}, &types.VmToolsUpgradeFault{},
		&types.GuestOperationsUnavailable{}) {
		return true
	}
	var family types.BaseSnapshotFault
	if _, ok := fault.As(err, &family); ok {
		return true
	}
	var config types.BaseVmConfigFault
	_, ok := fault.As(err, &config)
	return ok && strings.Contains(strings.ToLower(err.Error()), "quiesc")
}

// readSnapshot finds a snapshot by its reference.
func (c *Client) readSnapshot(ctx context.Context, op string, vm job.VM, ref string) (job.VMSnapshot, error) {
	all, err := c.snapshots(ctx, op, vm)
	if err != nil {
		return job.VMSnapshot{}, err
	}
	i := slices.IndexFunc(all, func(s treeSnapshot) bool { return s.ref == ref })
	if i < 0 {
		return job.VMSnapshot{}, job.Errorf(op, job.NotFound, "", "snapshot %s no longer exists", ref)
	}
	return c.describeSnapshot(ctx, op, vm, all[i])
}

// describeSnapshot reads the disks as they were at the snapshot's instant.
func (c *Client) describeSnapshot(ctx context.Context, op string, vm job.VM, s treeSnapshot) (job.VMSnapshot, error) {
	devices, err := c.snapshotDevices(ctx, op, s.ref)
	if err != nil {
		return job.VMSnapshot{}, err
	}
	out := job.VMSnapshot{Ref: s.ref, Name: s.name, Quiesced: s.quiesced, Disks: disksOf(devices)}
	for _, d := range out.Disks {
		if d.Unfit == "" && d.ChangeID == "" && vm.CBTEnabled {
			c.log.Warn("changes on a disk are not tracked: each round copies it in full", "vm", vm.Name, "disk", d.ID)
		}
	}
	return out, nil
}

func (c *Client) snapshotDevices(ctx context.Context, op, ref string) ([]types.BaseVirtualDevice, error) {
	var m mo.VirtualMachineSnapshot
	err := c.read(ctx, op, snapshotRef(ref), &m, func() { m = mo.VirtualMachineSnapshot{} }, "config.hardware.device")
	return m.Config.Hardware.Device, err
}

// treeSnapshot is one snapshot in a VM's tree of snapshots.
type treeSnapshot struct {
	ref, name string
	quiesced  bool
	ours      bool   // vmferry took it, on any node
	owner     string // the node that took it; "" if the description names none
	mark      string // of its job and round; "" if the description has none
	taken     time.Time
}

// activation says whether it was taken only to start change tracking.
func (s treeSnapshot) activation() bool {
	return s.ours && (s.mark == activationMark || s.mark == "" && s.name == oldActivationName)
}

// snapshots lists all snapshots of the VM, parents first.
func (c *Client) snapshots(ctx context.Context, op string, vm job.VM) ([]treeSnapshot, error) {
	var m mo.VirtualMachine
	if err := c.read(ctx, op, vmRef(vm), &m, func() { m = mo.VirtualMachine{} }, "snapshot"); err != nil {
		return nil, err
	}
	if m.Snapshot == nil {
		return nil, nil
	}
	return flatten(nil, m.Snapshot.RootSnapshotList), nil
}

func flatten(out []treeSnapshot, tree []types.VirtualMachineSnapshotTree) []treeSnapshot {
	for _, t := range tree {
		s := treeSnapshot{ref: t.Snapshot.Value, name: plainName(t.Name), quiesced: t.Quiesced, taken: t.CreateTime}
		s.ours, s.owner, s.mark = readDescription(t.Description)
		out = append(out, s)
		out = flatten(out, t.ChildSnapshotList)
	}
	return out
}

// recentTasks reads the tasks that ran or run on the VM, and which VM it is.
func (c *Client) recentTasks(ctx context.Context, op string, vm job.VM) (m mo.VirtualMachine, err error) {
	err = c.read(ctx, op, vmRef(vm), &m, func() { m = mo.VirtualMachine{} }, append(identity(), "recentTask")...)
	return m, err
}

// waitForSnapshotTasks waits until no snapshot task runs on the VM: neither another program's, nor our own from before
// a crash.
func (c *Client) waitForSnapshotTasks(ctx context.Context, op string, vm job.VM, m mo.VirtualMachine) error {
	for _, ref := range m.RecentTask {
		info, err := c.taskInfo(ctx, op, ref)
		if job.KindOf(err) == job.NotFound {
			continue // a vCenter forgets tasks after some minutes
		}
		if err != nil {
			return err
		}
		if !isActiveSnapshotTask(info) {
			continue
		}
		c.log.Info("waiting for a snapshot task on the VM", "vm", vm.Name, "task", info.DescriptionId)
		if _, err := c.wait(ctx, op, ref); errors.Is(err, errWait) && job.KindOf(err) != job.NotFound {
			return err
		}
	}
	return nil
}

func isActiveSnapshotTask(info types.TaskInfo) bool {
	if info.State != types.TaskInfoStateQueued && info.State != types.TaskInfoStateRunning {
		return false
	}
	what := strings.ToLower(info.DescriptionId)
	return strings.Contains(what, "snapshot") || strings.Contains(what, "consolidate")
}
