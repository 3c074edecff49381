package sim

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// machine is a VM: the simulator's object, and its disks.
type machine struct {
	v      *VCenter
	number int
	name   string
	path   string
	ref    types.ManagedObjectReference
	obj    *simulator.VirtualMachine
	store  types.ManagedObjectReference
	disks  []*disk
	unfit  map[int]string

	// stun is held for writing while all disks are frozen or merged, so that a snapshot is one instant for all of
	// them, and for reading while the guest writes.
	stun    sync.RWMutex
	pending bool // tracking was enabled and starts at the next stun; under stun

	busy  atomic.Bool // a task runs: a second one is refused
	tasks sync.WaitGroup
}

// waitForTasks waits until no task runs.
func (m *machine) waitForTasks() { m.tasks.Wait() }

// attach puts the disks into the simulator's VM. The VM is not yet shared.
func (m *machine) attach() {
	controller := &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		SharedBus:         types.VirtualSCSISharingNoSharing,
		VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: controllerKey}},
	}}
	devices := slices.DeleteFunc(slices.Clone(m.obj.Config.Hardware.Device), func(dev types.BaseVirtualDevice) bool {
		_, isDisk := dev.(*types.VirtualDisk)
		return isDisk
	})
	devices = append(devices, controller)
	for i, d := range m.disks {
		controller.Device = append(controller.Device, d.key)
		devices = append(devices, &types.VirtualDisk{
			CapacityInBytes: d.capacity, CapacityInKB: d.capacity / 1024,
			DiskObjectId: fmt.Sprintf("%s-%d", m.ref.Value, d.key),
			VirtualDevice: types.VirtualDevice{
				Key: d.key, ControllerKey: controllerKey, UnitNumber: new(unitOf(i)), Backing: m.backing(i),
				DeviceInfo: &types.Description{
					Label: fmt.Sprintf("Hard disk %d", i+1), Summary: fmt.Sprintf("%d KB", d.capacity/1024),
				},
			},
		})
	}
	m.obj.Config.Hardware.Device = devices
	m.obj.Datastore = []types.ManagedObjectReference{m.store}
}

// unitOf leaves out unit 7, which is the controller's own.
func unitOf(i int) int32 {
	if i >= 7 {
		i++
	}
	return int32(i)
}

// backing is the present chain of files of a disk.
func (m *machine) backing(i int) types.BaseVirtualDeviceBackingInfo {
	d := m.disks[i]
	d.mu.RLock()
	defer d.mu.RUnlock()
	file := func(name string) types.VirtualDeviceFileBackingInfo {
		return types.VirtualDeviceFileBackingInfo{FileName: name, Datastore: &m.store}
	}
	uuid := fmt.Sprintf("6000c290-%04d-%04d-0000-000000000000", m.number, d.key)
	if m.unfit[i] == unfitRDM {
		return &types.VirtualDiskRawDiskMappingVer1BackingInfo{
			VirtualDeviceFileBackingInfo: file(d.file), Uuid: uuid, DiskMode: string(types.VirtualDiskModePersistent),
			CompatibilityMode: string(types.VirtualDiskCompatibilityModePhysicalMode),
		}
	}
	link := func(name string, parent *types.VirtualDiskFlatVer2BackingInfo) *types.VirtualDiskFlatVer2BackingInfo {
		b := &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: file(name), Uuid: uuid, DiskMode: string(types.VirtualDiskModePersistent),
			ThinProvisioned: new(true), Parent: parent,
		}
		switch m.unfit[i] {
		case unfitIndependent:
			b.DiskMode = string(types.VirtualDiskModeIndependent_persistent)
		case unfitShared:
			b.Sharing = string(types.VirtualDiskSharingSharingMultiWriter)
		}
		return b
	}
	b := link(d.file, nil)
	for _, l := range d.layers {
		b = link(l.file, b)
	}
	return b
}

// covered says whether snapshots include the disk.
func (m *machine) covered(i int) bool { return m.unfit[i] == "" }

// GuestWrite writes to a disk as the VM's guest would. No earlier snapshot holds the bytes, and they are tracked if
// tracking is on. Errors are of kind NotFound, Invalid (beyond the disk's end) or IO.
func (v *VCenter) GuestWrite(vm string, id job.DiskID, off int64, p []byte) error {
	m, d, err := v.disk(vm, id)
	if err != nil {
		return err
	}
	m.stun.RLock()
	defer m.stun.RUnlock()
	return diskError("write as the guest of "+vm, d.write(p, off))
}

// GuestRead reads the live state of a disk.
func (v *VCenter) GuestRead(vm string, id job.DiskID, off int64, p []byte) error {
	r, err := v.FrozenReader(vm, "", id)
	if err != nil {
		return err
	}
	_, err = r.ReadAt(p, off)
	return err
}

// Reader reads a disk as a snapshot froze it, or its live state. It is safe for concurrent use and valid until the
// snapshot is removed.
type Reader struct {
	disk     *disk
	snapshot string
}

// FrozenReader reads what a snapshot, named by its moref, froze, or the live state for "". Tests take digests with it
// without the engine.
func (v *VCenter) FrozenReader(vm, snapshot string, id job.DiskID) (*Reader, error) {
	_, d, err := v.disk(vm, id)
	if err != nil {
		return nil, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if _, err := d.depthOf(snapshot); err != nil {
		return nil, diskError("read "+string(id)+" of "+vm, err)
	}
	return &Reader{d, snapshot}, nil
}

// Size is the disk's capacity in bytes.
func (r *Reader) Size() int64 { return r.disk.capacity }

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.disk.capacity {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), r.disk.capacity-off))
	r.disk.mu.RLock()
	defer r.disk.mu.RUnlock()
	depth, err := r.disk.depthOf(r.snapshot)
	if err == nil {
		err = r.disk.read(p[:n], off, depth)
	}
	if err != nil {
		return 0, diskError("read "+string(r.disk.id), err)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// ResetCBT makes every change ID of the VM's disks invalid, as a power failure of its host does.
func (v *VCenter) ResetCBT(vm string) error {
	m, err := v.machine(vm)
	if err != nil {
		return err
	}
	m.stun.Lock()
	defer m.stun.Unlock()
	for _, d := range m.disks {
		d.reset()
	}
	return nil
}

func diskError(op string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errBeyondEnd):
		return &job.Error{Op: op, Kind: job.Invalid, Err: err}
	case errors.Is(err, errNoSnapshot):
		return &job.Error{Op: op, Kind: job.NotFound, Err: err}
	default:
		return &job.Error{Op: op, Kind: job.IO, Err: err}
	}
}
