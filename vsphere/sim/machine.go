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
	dir    string       // name of its directory on the datastore
	list   sync.RWMutex // of disks; the disks have locks of their own
	disks  []*disk

	// stun is held for writing while all disks are frozen or merged, so that a snapshot is one instant for all of
	// them, and for reading while the guest writes.
	stun    sync.RWMutex
	pending bool // tracking was enabled and starts at the next stun; under stun

	busy  atomic.Bool // a task runs: a second one is refused
	tasks sync.WaitGroup
}

// waitForTasks waits until no task runs.
func (m *machine) waitForTasks() { m.tasks.Wait() }

// all are the disks of the VM, and those that were removed from it. The slice is never changed.
func (m *machine) all() []*disk {
	m.list.RLock()
	defer m.list.RUnlock()
	return m.disks
}

// attached are the disks that the VM has, in the order in which they were added.
func (m *machine) attached() (out []*disk) {
	for _, d := range m.all() {
		if !d.detached.Load() {
			out = append(out, d)
		}
	}
	return out
}

// add appends a disk.
func (m *machine) add(d *disk) {
	m.list.Lock()
	defer m.list.Unlock()
	m.disks = append(slices.Clip(m.disks), d)
}

// attach puts a controller and the disks into the simulator's VM. The VM is not yet shared.
func (m *machine) attach() {
	controller := &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		SharedBus:         types.VirtualSCSISharingNoSharing,
		VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: controllerKey}},
	}}
	m.obj.Config.Hardware.Device = m.devices(append(slices.Clone(m.obj.Config.Hardware.Device), controller))
	m.obj.Datastore = []types.ManagedObjectReference{m.store}
}

// devices are the devices of the VM with the disks that it has now.
func (m *machine) devices(old []types.BaseVirtualDevice) []types.BaseVirtualDevice {
	disks := m.attached()
	var keys []int32
	for _, d := range disks {
		keys = append(keys, d.key)
	}
	out := make([]types.BaseVirtualDevice, 0, len(old)+len(disks))
	for _, dev := range old {
		switch dev := dev.(type) {
		case *types.VirtualDisk:
		case *types.ParaVirtualSCSIController:
			changed := *dev
			changed.Device = keys
			out = append(out, &changed)
		default:
			out = append(out, dev)
		}
	}
	for _, d := range disks {
		capacity := d.capacity.Load()
		out = append(out, &types.VirtualDisk{
			CapacityInBytes: capacity, CapacityInKB: capacity / 1024,
			DiskObjectId: fmt.Sprintf("%s-%d", m.ref.Value, d.key),
			VirtualDevice: types.VirtualDevice{
				Key: d.key, ControllerKey: controllerKey, UnitNumber: new(d.unit), Backing: m.backing(d),
				DeviceInfo: &types.Description{Label: d.label, Summary: fmt.Sprintf("%d KB", capacity/1024)},
			},
		})
	}
	return out
}

// backing is the present chain of files of a disk.
func (m *machine) backing(d *disk) types.BaseVirtualDeviceBackingInfo {
	d.mu.RLock()
	defer d.mu.RUnlock()
	file := func(name string) types.VirtualDeviceFileBackingInfo {
		return types.VirtualDeviceFileBackingInfo{FileName: name, Datastore: &m.store}
	}
	if d.unfit == unfitRDM {
		return &types.VirtualDiskRawDiskMappingVer1BackingInfo{
			VirtualDeviceFileBackingInfo: file(d.file), Uuid: d.uuid, DiskMode: string(types.VirtualDiskModePersistent),
			CompatibilityMode: string(types.VirtualDiskCompatibilityModePhysicalMode),
		}
	}
	link := func(name string, parent *types.VirtualDiskFlatVer2BackingInfo) *types.VirtualDiskFlatVer2BackingInfo {
		b := &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: file(name), Uuid: d.uuid, DiskMode: string(types.VirtualDiskModePersistent),
			ThinProvisioned: new(true), Parent: parent,
		}
		switch d.unfit {
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
	m, err := v.machine(vm)
	if err != nil {
		return nil, err
	}
	d, err := m.diskIn(snapshot, id)
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

// diskIn finds a disk in a snapshot; it may have been removed from the VM since. "" is the live state.
func (m *machine) diskIn(snapshot string, id job.DiskID) (*disk, error) {
	for _, d := range m.all() {
		if d.id == id && snapshot != "" && d.has(snapshot) {
			return d, nil
		}
	}
	return m.disk(id)
}

// Size is the disk's capacity in bytes.
func (r *Reader) Size() int64 { return r.disk.capacity.Load() }

// ReadAt implements io.ReaderAt.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= r.disk.capacity.Load() {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), r.disk.capacity.Load()-off))
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
	for _, d := range m.attached() {
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
		return job.SystemError(op, "", err)
	}
}
