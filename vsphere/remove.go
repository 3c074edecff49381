package vsphere

import (
	"context"
	"errors"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// RemoveSnapshot removes the snapshot with that reference and every other one that this node took with that mark (that
// name, if there is no mark); each part of the reference may be empty. It also removes an activation snapshot that a
// crash of this node left. A snapshot that no longer exists is no error. The description of a snapshot decides whether
// it is ours: if the reference leads to one of another program, node or job, nothing is removed and the error is of
// kind Conflict. Child snapshots stay. It waits for a snapshot task that runs on the VM.
func (c *Client) RemoveSnapshot(ctx context.Context, vm job.VM, which job.SnapshotRef) error {
	op := "remove snapshot of " + vm.Name
	err := c.removeSnapshot(ctx, op, vm, which)
	if isAny(err, &types.ManagedObjectNotFound{}) {
		return nil // the snapshot, or the whole VM, was removed meanwhile
	}
	return err
}

func (c *Client) removeSnapshot(ctx context.Context, op string, vm job.VM, which job.SnapshotRef) error {
	m, err := c.recentTasks(ctx, op, vm)
	if err == nil {
		err = c.waitForSnapshotTasks(ctx, op, vm, m)
	}
	if err != nil {
		return err
	}
	all, err := c.snapshots(ctx, op, vm)
	if err != nil {
		return err
	}
	var remove []treeSnapshot
	for _, s := range all {
		switch {
		case s.ref == which.Ref:
			if err := c.mayRemove(op, s, which); err != nil {
				return err
			}
		case c.isOwn(s, which), s.activation() && s.owner == c.cfg.Owner:
		default:
			continue
		}
		remove = append(remove, s)
	}
	for _, s := range remove {
		if err := c.remove(ctx, op, vm, s); err != nil {
			return err
		}
	}
	if len(remove) == 0 {
		return nil
	}
	return c.consolidate(ctx, op, vm)
}

// mayRemove refuses a snapshot that the reference leads to and that is not the one that was meant: its mark has to be
// that of the reference or, if both have none, this node has to have taken it. A snapshot that names no node is of an
// early version: it has to have the name as well.
func (c *Client) mayRemove(op string, s treeSnapshot, which job.SnapshotRef) error {
	const next = "Remove it in the vCenter if it is no longer needed"
	switch {
	case !s.ours:
		return job.Errorf(op, job.Conflict, next, "snapshot %q (%s) was not made by vmferry", s.name, s.ref)
	case s.mark != which.Mark:
		return job.Errorf(op, job.Conflict, next, "snapshot %q (%s) was made for another job or round", s.name, s.ref)
	case which.Mark != "", s.owner == c.cfg.Owner, s.owner == "" && s.name == which.Name:
		return nil
	default:
		return job.Errorf(op, job.Conflict, next, "snapshot %q (%s) was made by another node of vmferry (%s)", s.name,
			s.ref, s.owner)
	}
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
