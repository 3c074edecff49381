package sim

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// task starts a task on the VM. Its duration passes without the VM's lock, so that the VM can be read meanwhile: the
// simulator itself would hold the lock during the whole task. do runs with a context of its own and locks what it
// changes.
func (m *machine) task(ctx *simulator.Context, call, name string,
	do func(*simulator.Context) (types.AnyType, types.BaseMethodFault),
) (types.ManagedObjectReference, *soap.Fault) {
	if !m.busy.CompareAndSwap(false, true) {
		return types.ManagedObjectReference{}, simulator.Fault("another task is in progress",
			&types.TaskInProgress{Task: m.ref})
	}
	m.tasks.Add(1)
	own := *ctx // the simulator takes a copy for another holder of locks
	// The simulator locks the task's entity while the task runs: no object has this reference.
	entity := types.ManagedObjectReference{Type: m.ref.Type, Value: m.ref.Value + "-task"}
	task := simulator.CreateTask(entity, name, func(t *simulator.Task) (types.AnyType, types.BaseMethodFault) {
		defer m.tasks.Done()
		defer m.busy.Store(false)
		m.simulateDuration(&own, t, call)
		if f, ok := m.v.faults.take(FaultTask, call, m.name); ok {
			fault, _ := f.method() // Inject has checked it
			return nil, fault
		}
		return do(&own)
	})
	ref := task.Run(ctx)
	ctx.Map.AtomicUpdate(ctx, task, []types.PropertyChange{
		{Name: "info.entity", Val: m.ref}, {Name: "info.entityName", Val: m.name},
	})
	ctx.WithLock(m.obj, func() {
		recent := append(slices.Clone(m.obj.RecentTask), ref)
		ctx.Update(m.obj, []types.PropertyChange{{Name: "recentTask", Val: recent[max(0, len(recent)-mostRecent):]}})
	})
	return ref, nil
}

// mostRecent is how many tasks a VM lists.
const mostRecent = 20

// progressSteps is how many times a task that takes time reports its progress.
const progressSteps = 5

// simulateDuration waits for as long as the options and a fault want the task to take.
func (m *machine) simulateDuration(ctx *simulator.Context, t *simulator.Task, call string) {
	length := m.v.opt.TaskTime
	if f, ok := m.v.faults.take(FaultTaskSlow, call, m.name); ok {
		length += f.Delay
	}
	for i := 0; i < progressSteps && length > 0; i++ {
		percent := int32(100 * i / progressSteps)
		ctx.Map.AtomicUpdate(ctx, t, []types.PropertyChange{{Name: "info.progress", Val: percent}})
		m.v.pause(ctx, length/progressSteps)
	}
}

// runSimulatorTask runs a task of the simulator's own and waits for it. The simulator begins tasks only under the VM's
// lock.
func (m *machine) runSimulatorTask(ctx *simulator.Context,
	begin func() types.ManagedObjectReference,
) (types.AnyType, types.BaseMethodFault) {
	var ref types.ManagedObjectReference
	ctx.WithLock(m.obj, func() { ref = begin() })
	t, ok := ctx.Map.Get(ref).(*simulator.Task)
	if !ok {
		return nil, &types.SystemError{Reason: "the task is gone"}
	}
	t.Wait()
	if t.Info.Error != nil {
		return nil, t.Info.Error.Fault
	}
	return t.Info.Result, nil
}

// createSnapshot freezes all disks at one instant.
func (m *machine) createSnapshot(ctx *simulator.Context, call string,
	req types.CreateSnapshotEx_Task,
) (types.ManagedObjectReference, *soap.Fault) {
	return m.task(ctx, call, "createSnapshot", func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
		if req.QuiesceSpec != nil {
			if _, ok := m.v.faults.take(FaultQuiesce, "", m.name); ok {
				return nil, &types.ApplicationQuiesceFault{}
			}
			if _, ok := m.v.faults.take(FaultQuiesceIgnored, "", m.name); ok {
				req.QuiesceSpec = nil
			}
		}
		req.Name = m.v.shown(req.Name)
		res, fault := m.runSimulatorTask(ctx, func() types.ManagedObjectReference {
			body, _ := m.obj.CreateSnapshotExTask(ctx, &req).(*methods.CreateSnapshotEx_TaskBody)
			return body.Res.Returnval
		})
		if fault != nil {
			return nil, fault
		}
		ref, _ := res.(types.ManagedObjectReference)
		return ref, m.freeze(ctx, ref)
	})
}

// freeze freezes the disks for a snapshot that the simulator has put into the tree. The snapshot's configuration names
// the frozen files and their change IDs. From then on the VM writes to overlays.
func (m *machine) freeze(ctx *simulator.Context, ref types.ManagedObjectReference) types.BaseMethodFault {
	ids := map[int32]string{}
	m.stun.Lock()
	m.startTracking()
	for _, d := range m.attached() {
		if !d.covered() {
			continue
		}
		f, err := d.freeze(ref.Value)
		if err != nil {
			m.stun.Unlock()
			return &types.FileFault{File: d.file}
		}
		ids[d.key] = f.changeID
	}
	m.stun.Unlock()
	if snapshot, ok := ctx.Map.Get(ref).(*simulator.VirtualMachineSnapshot); ok {
		ctx.WithLock(snapshot, func() {
			for _, dev := range snapshot.Config.Hardware.Device {
				if b, ok := dev.GetVirtualDevice().Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
					b.ChangeId = ids[dev.GetVirtualDevice().Key]
				}
			}
		})
	}
	m.refreshDevices(ctx)
	return nil
}

// mergeRemoved merges the overlays of a removed snapshot, and of the snapshots that were removed with it.
func (m *machine) mergeRemoved(ctx *simulator.Context, snapshot string) types.BaseMethodFault {
	gone := []string{snapshot}
	for _, d := range m.all() {
		d.mu.RLock()
		for _, l := range d.layers {
			if ctx.Map.Get(types.ManagedObjectReference{Type: "VirtualMachineSnapshot", Value: l.snapshot}) == nil {
				gone = append(gone, l.snapshot)
			}
		}
		d.mu.RUnlock()
	}
	if fault := m.merge(gone); fault != nil {
		return fault
	}
	m.refreshDevices(ctx)
	if _, ok := m.v.faults.take(FaultConsolidation, "", m.name); ok {
		m.needConsolidation(ctx, true)
	}
	return nil
}

func (m *machine) mergeAll(ctx *simulator.Context) types.BaseMethodFault {
	var all []string
	for _, d := range m.all() {
		d.mu.RLock()
		for _, l := range d.layers {
			all = append(all, l.snapshot)
		}
		d.mu.RUnlock()
	}
	if fault := m.merge(all); fault != nil {
		return fault
	}
	m.refreshDevices(ctx)
	return nil
}

func (m *machine) merge(snapshots []string) types.BaseMethodFault {
	m.stun.Lock()
	defer m.stun.Unlock()
	m.startTracking()
	for _, d := range m.all() {
		for _, s := range snapshots {
			if err := d.merge(s); err != nil {
				m.v.log.Error("overlay could not be merged", "disk", d.file, "err", err)
				return &types.FileFault{File: d.file}
			}
		}
	}
	return nil
}

// refreshDevices tells the simulator which disks the VM has, and which files they are in now.
func (m *machine) refreshDevices(ctx *simulator.Context) {
	ctx.WithLock(m.obj, func() {
		ctx.Update(m.obj, []types.PropertyChange{
			{Name: "config.hardware.device", Val: m.devices(m.obj.Config.Hardware.Device)},
		})
	})
}

func (m *machine) needConsolidation(ctx *simulator.Context, needed bool) {
	ctx.WithLock(m.obj, func() {
		ctx.Update(m.obj, []types.PropertyChange{{Name: "runtime.consolidationNeeded", Val: needed}})
	})
}

// requestTracking switches tracking on or off. On takes effect at the next stun of a VM that runs, else at once. Off
// takes effect at once.
func (m *machine) requestTracking(on bool) {
	off := m.powerState() == types.VirtualMachinePowerStatePoweredOff
	m.stun.Lock()
	defer m.stun.Unlock()
	m.pending = on
	if !on {
		for _, d := range m.all() {
			d.track(false)
		}
		return
	}
	if off {
		m.startTracking()
	}
}

// startTracking is part of each stun. It leaves out disks that have snapshots. The caller holds stun for writing.
func (m *machine) startTracking() {
	if !m.pending {
		return
	}
	for _, d := range m.attached() {
		if d.newest() == "" && d.covered() {
			d.track(true)
		}
	}
	m.pending = false
}

// TakeSnapshot takes a snapshot as another program or another node would, and returns its reference. Errors are of kind
// NotFound, Conflict (a task runs on the VM) or IO.
func (v *VCenter) TakeSnapshot(vm, name, description string) (ref string, err error) {
	m, err := v.machine(vm)
	if err != nil {
		return "", err
	}
	err = m.alone("take snapshot "+name, func(ctx *simulator.Context) types.BaseMethodFault {
		res, fault := m.runSimulatorTask(ctx, func() types.ManagedObjectReference {
			body, _ := m.obj.CreateSnapshotExTask(ctx, &types.CreateSnapshotEx_Task{
				Name: m.v.shown(name), Description: description,
			}).(*methods.CreateSnapshotEx_TaskBody)
			return body.Res.Returnval
		})
		if fault != nil {
			return fault
		}
		made, _ := res.(types.ManagedObjectReference)
		ref = made.Value
		return m.freeze(ctx, made)
	})
	return ref, err
}

// alone does something with the VM as a task would, without the task: a task that comes meanwhile is refused.
func (m *machine) alone(op string, do func(*simulator.Context) types.BaseMethodFault) error {
	if !m.busy.CompareAndSwap(false, true) {
		return job.Errorf(op, job.Conflict, "Try again when it has ended", "a task runs on VM %s", m.name)
	}
	m.tasks.Add(1)
	defer m.tasks.Done()
	defer m.busy.Store(false)
	ctx := *m.v.model.Service.Context
	ctx.Context = context.WithoutCancel(ctx.Context)
	if fault := do(&ctx); fault != nil {
		return job.Errorf(op, job.IO, "", "%w", errors.New(faultName(fault)))
	}
	return nil
}

// shown is the name of a snapshot as the vCenter returns it.
func (v *VCenter) shown(name string) string {
	if !v.opt.EscapeNames {
		return name
	}
	return strings.NewReplacer("%", "%25", "/", "%2f", `\`, "%5c").Replace(name)
}
