package vsphere

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// activation is the snapshot whose only purpose is to make change tracking start. If a crash leaves one, the next call
// of this node that enables tracking or removes a snapshot of the VM removes it.
const (
	activationMark    = "enable-change-tracking"
	activationName    = "vmferry-" + activationMark
	oldActivationName = "vmferry/" + activationMark // in versions without marks
)

// oldestHardware is the first virtual hardware version with change tracking.
const oldestHardware = 7

// EnsureCBT enables change tracking if it is off, takes and removes a snapshot so that tracking starts, and checks that
// every disk that can be copied then has a change ID. It returns true if tracking was off.
//
// Errors are of kind Unsupported (the VM cannot track changes, or a disk is not tracked although it should be);
// Conflict if tracking is off and the VM has snapshots, whose names the error gives, or if the VM's reference leads to
// another VM now; Permission, Unavailable, Timeout.
func (c *Client) EnsureCBT(ctx context.Context, vm job.VM) (enabled bool, err error) {
	op := "enable change tracking of " + vm.Name
	on, err := c.cbtOn(ctx, op, vm)
	if err != nil {
		return false, err
	}
	if on {
		return false, c.RemoveSnapshot(ctx, vm, job.SnapshotRef{}) // a crash may have left one
	}
	c.log.Info("Change tracking is not enabled", "vm", vm.Name)
	if err := c.cbtPossible(ctx, op, vm); err != nil {
		return false, err
	}
	err = c.run(ctx, op, func(ctx context.Context) (types.ManagedObjectReference, error) {
		res, err := methods.ReconfigVM_Task(ctx, c.vim, &types.ReconfigVM_Task{
			This: vmRef(vm), Spec: types.VirtualMachineConfigSpec{ChangeTrackingEnabled: new(true)},
		})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	})
	if err != nil {
		return false, err
	}
	if err := c.activate(ctx, op, vm); err != nil {
		return false, err
	}
	if on, err = c.cbtOn(ctx, op, vm); err != nil {
		return false, err
	}
	if !on {
		return false, job.Errorf(op, job.Unsupported, "Enable it in the vCenter: the VM's advanced setting ctkEnabled",
			"change tracking is still off after the vCenter enabled it")
	}
	c.log.Info("CBT enabled successfully", "vm", vm.Name)
	return true, nil
}

func (c *Client) cbtOn(ctx context.Context, op string, vm job.VM) (bool, error) {
	var m mo.VirtualMachine
	err := c.read(ctx, op, vmRef(vm), &m, func() { m = mo.VirtualMachine{} },
		append(identity(), "config.changeTrackingEnabled")...)
	if err == nil {
		err = c.sameVM(op, vm, m)
	}
	return err == nil && m.Config != nil && isTrue(m.Config.ChangeTrackingEnabled), err
}

// cbtPossible refuses a VM on which enabling tracking would fail or lose changes. It removes an activation snapshot
// that a crash left.
func (c *Client) cbtPossible(ctx context.Context, op string, vm job.VM) error {
	if err := c.RemoveSnapshot(ctx, vm, job.SnapshotRef{}); err != nil {
		return err
	}
	var m mo.VirtualMachine
	err := c.read(ctx, op, vmRef(vm), &m, func() {
		m = mo.VirtualMachine{}
	}, "config.version", "capability.changeTrackingSupported", "snapshot")
	if err != nil {
		return err
	}
	version := ""
	if m.Config != nil {
		version = m.Config.Version
	}
	number, verr := strconv.Atoi(strings.TrimPrefix(version, "vmx-"))
	if !m.Capability.ChangeTrackingSupported || verr == nil && number < oldestHardware {
		return job.Errorf(op, job.Unsupported, "Upgrade the VM's virtual hardware to vmx-07 or later",
			"virtual hardware %s cannot track changes", version)
	}
	if m.Snapshot == nil || len(m.Snapshot.RootSnapshotList) == 0 {
		return nil
	}
	var names []string
	for _, s := range flatten(nil, m.Snapshot.RootSnapshotList) {
		names = append(names, strconv.Quote(s.name))
	}
	list := strings.Join(names, ", ")
	return job.Errorf(op, job.Conflict, "Remove these snapshots in the vCenter, then try again: "+list,
		"change tracking can only start on a VM without snapshots, and it has %s", list)
}

// activate takes and removes one snapshot, at which tracking starts, and looks for a change ID on every disk.
func (c *Client) activate(ctx context.Context, op string, vm job.VM) (err error) {
	ref, err := c.createSnapshot(ctx, op, vm, job.SnapshotRef{Name: activationName, Mark: activationMark}, false)
	if err != nil {
		return err
	}
	defer func() {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
		defer done()
		err = errors.Join(err, c.RemoveSnapshot(ctx, vm, job.SnapshotRef{Ref: ref, Mark: activationMark}))
		err = c.classify(op, err)
	}()
	devices, err := c.snapshotDevices(ctx, op, ref)
	if err != nil {
		return err
	}
	var missing []string
	for _, d := range disksOf(devices) {
		if d.Unfit == "" && d.ChangeID == "" {
			missing = append(missing, string(d.ID))
		}
	}
	if len(missing) > 0 {
		return job.Errorf(op, job.Unsupported,
			"Set ctkEnabled for these disks in the VM's advanced settings, or power the VM off and on",
			"change tracking was enabled but did not start on %s", strings.Join(missing, ", "))
	}
	return nil
}
