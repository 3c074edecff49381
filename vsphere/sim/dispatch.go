package sim

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// dispatch runs before every call and puts our receivers into the registry of the session. For a session that is logged
// in, that registry overrules the receiver that dispatch returns. The simulator's own registry keeps the plain objects,
// since the simulator asserts their types in many places.
func (v *VCenter) dispatch(ctx *simulator.Context, call *simulator.Method) (mo.Reference, types.BaseMethodFault) {
	if ctx.Session == nil {
		return nil, nil
	}
	if f, ok := v.faults.take(FaultCall, call.Name, ""); ok {
		fault, _ := f.method() // Inject has checked it
		return nil, fault
	}
	registry := ctx.Session.Registry
	plain := v.model.Map().Get(call.This)
	if plain == nil {
		if call.This.Type == "VirtualMachineSnapshot" {
			registry.Remove(ctx, call.This) // removed meanwhile: the simulator then reports it
		}
		return nil, nil
	}
	if w, ok := registry.Get(call.This).(interface{ vcenter() *VCenter }); ok && w.vcenter() == v {
		return nil, nil
	}
	switch obj := plain.(type) {
	case *simulator.VirtualMachine:
		if m := v.machineOf(obj.Self); m != nil {
			registry.Put(&vmReceiver{obj, m})
		}
	case *simulator.VirtualMachineSnapshot:
		if m := v.machineOf(obj.Vm); m != nil {
			registry.Put(&snapshotReceiver{obj, m})
		}
	case *simulator.AuthorizationManager:
		registry.Put(&privilegeReceiver{obj, v})
	}
	return nil, nil
}

func (v *VCenter) machineOf(ref types.ManagedObjectReference) *machine {
	for _, m := range v.machines {
		if m.ref == ref {
			return m
		}
	}
	return nil
}

// vmReceiver answers calls of a VM.
type vmReceiver struct {
	*simulator.VirtualMachine
	m *machine
}

// snapshotReceiver answers calls of a snapshot.
type snapshotReceiver struct {
	*simulator.VirtualMachineSnapshot
	m *machine
}

// privilegeReceiver answers calls about privileges.
type privilegeReceiver struct {
	*simulator.AuthorizationManager
	v *VCenter
}

func (r *vmReceiver) vcenter() *VCenter        { return r.m.v }
func (r *snapshotReceiver) vcenter() *VCenter  { return r.m.v }
func (r *privilegeReceiver) vcenter() *VCenter { return r.v }

// HasPrivilegeOnEntities grants every privilege that no fault denies.
func (r *privilegeReceiver) HasPrivilegeOnEntities(req *types.HasPrivilegeOnEntities) soap.HasFault {
	res := r.AuthorizationManager.HasPrivilegeOnEntities(req)
	body, ok := res.(*methods.HasPrivilegeOnEntitiesBody)
	if !ok || body.Res == nil {
		return res
	}
	for _, entity := range body.Res.Returnval {
		for i, p := range entity.PrivAvailability {
			if _, denied := r.v.faults.take(FaultPrivilege, p.PrivId, ""); denied {
				entity.PrivAvailability[i].IsGranted = false
			}
		}
	}
	return res
}

// ReconfigVMTask lets change tracking take effect at the next stun of a running VM, and only on disks without
// snapshots.
func (r *vmReceiver) ReconfigVMTask(ctx *simulator.Context, req *types.ReconfigVM_Task) soap.HasFault {
	ref, fault := r.m.task(ctx, "ReconfigVM_Task", "reconfigure",
		func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			_, fault := r.m.runSimulatorTask(ctx, func() types.ManagedObjectReference {
				body, _ := r.VirtualMachine.ReconfigVMTask(ctx, req).(*methods.ReconfigVM_TaskBody)
				return body.Res.Returnval
			})
			if fault != nil {
				return nil, fault
			}
			if on := req.Spec.ChangeTrackingEnabled; on != nil {
				r.m.requestTracking(*on)
			}
			return nil, nil
		})
	if fault != nil {
		return &methods.ReconfigVM_TaskBody{Fault_: fault}
	}
	return &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: ref}}
}

// CreateSnapshotTask freezes the disks. It is the older form of CreateSnapshotExTask.
func (r *vmReceiver) CreateSnapshotTask(ctx *simulator.Context, req *types.CreateSnapshot_Task) soap.HasFault {
	ex := types.CreateSnapshotEx_Task{This: req.This, Name: req.Name, Description: req.Description, Memory: req.Memory}
	if req.Quiesce {
		ex.QuiesceSpec = &types.VirtualMachineGuestQuiesceSpec{}
	}
	ref, fault := r.m.createSnapshot(ctx, "CreateSnapshot_Task", ex)
	if fault != nil {
		return &methods.CreateSnapshot_TaskBody{Fault_: fault}
	}
	return &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: ref}}
}

// CreateSnapshotExTask freezes the disks.
func (r *vmReceiver) CreateSnapshotExTask(ctx *simulator.Context, req *types.CreateSnapshotEx_Task) soap.HasFault {
	ref, fault := r.m.createSnapshot(ctx, "CreateSnapshotEx_Task", *req)
	if fault != nil {
		return &methods.CreateSnapshotEx_TaskBody{Fault_: fault}
	}
	return &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{Returnval: ref}}
}

// RemoveAllSnapshotsTask merges every overlay.
func (r *vmReceiver) RemoveAllSnapshotsTask(ctx *simulator.Context, req *types.RemoveAllSnapshots_Task) soap.HasFault {
	ref, fault := r.m.task(ctx, "RemoveAllSnapshots_Task", "removeAllSnapshots",
		func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			_, fault := r.m.runSimulatorTask(ctx, func() types.ManagedObjectReference {
				body, _ := r.VirtualMachine.RemoveAllSnapshotsTask(ctx, req).(*methods.RemoveAllSnapshots_TaskBody)
				return body.Res.Returnval
			})
			if fault != nil {
				return nil, fault
			}
			return nil, r.m.mergeAll(ctx)
		})
	if fault != nil {
		return &methods.RemoveAllSnapshots_TaskBody{Fault_: fault}
	}
	return &methods.RemoveAllSnapshots_TaskBody{Res: &types.RemoveAllSnapshots_TaskResponse{Returnval: ref}}
}

// RevertToCurrentSnapshotTask is refused: the simulator would report success and leave the bytes as they are.
func (r *vmReceiver) RevertToCurrentSnapshotTask(*simulator.Context,
	*types.RevertToCurrentSnapshot_Task,
) soap.HasFault {
	return &methods.RevertToCurrentSnapshot_TaskBody{Fault_: cannotRevert()}
}

// RevertToSnapshotTask is refused for the same reason.
func (r *snapshotReceiver) RevertToSnapshotTask(*simulator.Context, *types.RevertToSnapshot_Task) soap.HasFault {
	return &methods.RevertToSnapshot_TaskBody{Fault_: cannotRevert()}
}

func cannotRevert() *soap.Fault {
	return simulator.Fault("the rehearsal vCenter cannot revert", &types.NotSupported{})
}

// ConsolidateVMDisksTask only clears the flag that asks for it: a removal merges overlays at once.
func (r *vmReceiver) ConsolidateVMDisksTask(ctx *simulator.Context, _ *types.ConsolidateVMDisks_Task) soap.HasFault {
	ref, fault := r.m.task(ctx, "ConsolidateVMDisks_Task", "consolidateDisks",
		func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			r.m.needConsolidation(ctx, false)
			return nil, nil
		})
	if fault != nil {
		return &methods.ConsolidateVMDisks_TaskBody{Fault_: fault}
	}
	return &methods.ConsolidateVMDisks_TaskBody{Res: &types.ConsolidateVMDisks_TaskResponse{Returnval: ref}}
}

// RemoveSnapshotTask merges the overlay of one snapshot. With children it merges those above it too.
func (r *snapshotReceiver) RemoveSnapshotTask(ctx *simulator.Context, req *types.RemoveSnapshot_Task) soap.HasFault {
	ref, fault := r.m.task(ctx, "RemoveSnapshot_Task", "removeSnapshot",
		func(ctx *simulator.Context) (types.AnyType, types.BaseMethodFault) {
			_, fault := r.m.runSimulatorTask(ctx, func() types.ManagedObjectReference {
				body, _ := r.VirtualMachineSnapshot.RemoveSnapshotTask(ctx, req).(*methods.RemoveSnapshot_TaskBody)
				return body.Res.Returnval
			})
			if fault != nil {
				return nil, fault
			}
			return nil, r.m.mergeRemoved(ctx, req.This.Value)
		})
	if fault != nil {
		return &methods.RemoveSnapshot_TaskBody{Fault_: fault}
	}
	return &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: ref}}
}

// QueryChangedDiskAreas answers from our tracking: the simulator does not implement the call.
func (r *vmReceiver) QueryChangedDiskAreas(_ *simulator.Context, req *types.QueryChangedDiskAreas) soap.HasFault {
	res, fault := r.m.changedAreas(req, r.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn)
	if fault != nil {
		return &methods.QueryChangedDiskAreasBody{Fault_: fault}
	}
	return &methods.QueryChangedDiskAreasBody{Res: &types.QueryChangedDiskAreasResponse{Returnval: res}}
}

func (m *machine) changedAreas(req *types.QueryChangedDiskAreas,
	running bool,
) (out types.DiskChangeInfo, _ *soap.Fault) {
	bad := func(parameter string) (types.DiskChangeInfo, *soap.Fault) {
		return out, simulator.Fault("A specified parameter was not correct: "+parameter,
			&types.InvalidArgument{InvalidProperty: parameter})
	}
	var d *disk
	for _, candidate := range m.all() {
		if candidate.key != req.DeviceKey || candidate.unfit != "" {
			continue
		}
		if d == nil || req.Snapshot != nil && candidate.has(req.Snapshot.Value) {
			d = candidate
		}
	}
	switch {
	case d == nil:
		return bad("deviceKey")
	case req.Snapshot == nil && running:
		return bad("snapshot")
	case req.Snapshot == nil:
		return out, simulator.Fault("the rehearsal vCenter wants a snapshot", &types.NotSupported{})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.frozenAt(req.Snapshot.Value)
	if !ok {
		return out, simulator.Fault("snapshot not found", &types.NotFound{})
	}
	if req.StartOffset < 0 || req.StartOffset >= f.capacity {
		return bad("startOffset")
	}
	set, ok := f.since(req.ChangeId)
	if !ok {
		file := "/vmfs/volumes/" + strings.NewReplacer("[", "", "] ", "/").Replace(d.file)
		return out, simulator.Fault("Error caused by file "+file, &types.FileFault{File: file})
	}
	_, gaps := m.v.faults.take(FaultEmptyPages, "", m.name)
	areas, end := f.page(set, req.StartOffset, m.v.opt.MaxAreas, gaps)
	out = types.DiskChangeInfo{StartOffset: req.StartOffset, Length: end - req.StartOffset}
	for _, a := range areas {
		out.ChangedArea = append(out.ChangedArea, types.DiskChangeExtent{Start: a.Offset, Length: a.Length})
	}
	return out, nil
}
