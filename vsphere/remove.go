package vsphere

import (
	"context"
	"errors"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// RemoveSnapshot removes our snapshot with that reference and every other snapshot of ours with exactly that name; ref
// or name may be empty. It also removes an activation snapshot that a crash left. A snapshot that no longer exists is
// no error. A snapshot without our mark is never removed: if ref names one the error is of kind Conflict. Child
// snapshots stay. It waits for a snapshot task that runs on the VM.
func (c *Client) RemoveSnapshot(ctx context.Context, vm job.VM, ref, name string) error {
	op := "remove snapshot of " + vm.Name
	err := c.removeSnapshot(ctx, op, vm, ref, name)
	if isAny(err, &types.ManagedObjectNotFound{}) {
		return nil // the snapshot, or the whole VM, was removed meanwhile
	}
	return err
}

func (c *Client) removeSnapshot(ctx context.Context, op string, vm job.VM, ref, name string) error {
	if err := c.waitForSnapshotTasks(ctx, op, vm); err != nil {
		return err
	}
	all, err := c.snapshots(ctx, op, vm)
	if err != nil {
		return err
	}
	removed := false
	for _, s := range all {
		named := name != "" && s.name == name || s.name == activationName
		switch {
		case s.ref == ref && !s.ours:
			return job.Errorf(op, job.Conflict, "Remove it in the vCenter if it is no longer needed",
				"snapshot %q (%s) was not made by vmferry", s.name, s.ref)
		case s.ref != ref && (!s.ours || !named):
			continue
		}
		if err := c.remove(ctx, op, vm, s); err != nil {
			return err
		}
		removed = true
	}
	if !removed {
		return nil
	}
	return c.consolidate(ctx, op, vm)
}

func (c *Client) remove(ctx context.Context, op string, vm job.VM, s treeSnapshot) error {
	err := c.run(ctx, op, func(ctx context.Context) (types.ManagedObjectReference, error) {
		res, err := methods.RemoveSnapshot_Task(ctx, c.vim, &types.RemoveSnapshot_Task{
			This: snapshotRef(s.ref), RemoveChildren: false, Consolidate: new(true),
		})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	})
	if isAny(err, &types.ManagedObjectNotFound{}) && !errors.Is(err, errWait) {
		return nil
	}
	if err == nil {
		c.log.Info("snapshot removed", "vm", vm.Name, "snapshot", s.name, "ref", s.ref)
	}
	return err
}

// consolidate merges delta files that a removal left, if the vCenter reports any.
func (c *Client) consolidate(ctx context.Context, op string, vm job.VM) error {
	var m mo.VirtualMachine
	if err := c.read(ctx, op, vmRef(vm), &m, func() {
		m = mo.VirtualMachine{}
	}, "runtime.consolidationNeeded"); err != nil {
		return err
	}
	if !m.Runtime.ConsolidationNeeded {
		return nil
	}
	c.log.Warn("disks need consolidation after the snapshot's removal", "vm", vm.Name)
	err := c.run(ctx, "consolidate disks of "+vm.Name, func(ctx context.Context) (types.ManagedObjectReference, error) {
		res, err := methods.ConsolidateVMDisks_Task(ctx, c.vim, &types.ConsolidateVMDisks_Task{This: vmRef(vm)})
		if err != nil {
			return types.ManagedObjectReference{}, err
		}
		return res.Returnval, nil
	})
	if job.KindOf(err) == job.Unsupported {
		c.log.Warn("this server cannot consolidate disks on request", "vm", vm.Name, "err", err)
		return nil
	}
	return err
}
