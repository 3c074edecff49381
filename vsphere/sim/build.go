package sim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// build makes the inventory: one datacenter with one host and one datastore, and our VMs.
func (v *VCenter) build(ctx context.Context) error {
	m := simulator.VPX()
	m.Machine, m.Cluster, m.Host = 0, 0, 1
	if err := create(m); err != nil {
		return fmt.Errorf("make the inventory: %w", err)
	}
	v.model = m
	v.settings()
	store, ok := m.Map().Any("Datastore").(*simulator.Datastore)
	if !ok {
		return fmt.Errorf("make the inventory: no datastore in it")
	}
	store.Summary.Url, store.Info.GetDatastoreInfo().Url = v.dir, v.dir
	store.Summary.Type = string(types.HostFileSystemVolumeFileSystemTypeVMFS)
	client, err := vim25.NewClient(ctx, m.Service)
	if err != nil {
		return err
	}
	b := builder{v: v, client: client, store: store.Self}
	for i, spec := range v.opt.VMs {
		if err := b.machine(ctx, i, spec); err != nil {
			return fmt.Errorf("make VM %s: %w", spec.Name, err)
		}
	}
	return nil
}

// create makes one inventory at a time: the simulator fills in variables that the whole process shares.
func create(m *simulator.Model) error {
	creating.Lock()
	defer creating.Unlock()
	return m.Create()
}

var creating sync.Mutex //nolint:gochecknoglobals // it guards global variables of the simulator

// settings completes what the model leaves open. A timeout for idle sessions costs a goroutine for each session, so
// there is none unless the options set one.
func (v *VCenter) settings() {
	const timeout = "config.vmacore.soap.sessionTimeout"
	options := v.model.Map().OptionManager()
	var own []types.BaseOptionValue // copies: all vCenters of the process share the simulator's values
	for _, o := range options.Setting {
		if value := *o.GetOptionValue(); value.Key != timeout {
			own = append(own, &value)
		}
	}
	options.Setting = own
	if v.opt.SessionTimeout > 0 {
		value := &types.OptionValue{Key: timeout, Value: v.opt.SessionTimeout.String()}
		options.Setting = append(options.Setting, value)
	}
	if instance, ok := v.model.Map().Get(vim25.ServiceInstance).(*simulator.ServiceInstance); ok {
		instance.Content.About.InstanceUuid = v.opt.instanceUUID()
	}
	// The simulator lists privileges only as parts of roles.
	ref := v.model.ServiceContent.AuthorizationManager
	if m, ok := v.model.Map().Get(*ref).(*simulator.AuthorizationManager); ok {
		for _, role := range m.RoleList {
			for _, p := range role.Privilege {
				m.PrivilegeList = append(m.PrivilegeList, types.AuthorizationPrivilege{PrivId: p})
			}
		}
	}
}

// builder makes VMs through the simulator's own calls.
type builder struct {
	v      *VCenter
	client *vim25.Client
	store  types.ManagedObjectReference
}

func (b *builder) machine(ctx context.Context, number int, spec VM) error {
	folder, path, err := b.folder(ctx, spec.Folder)
	if err != nil {
		return err
	}
	dir := spec.Name
	if slices.ContainsFunc(b.v.opt.VMs[:number], func(o VM) bool { return o.Name == spec.Name }) {
		dir = fmt.Sprintf("%s_%d", spec.Name, number)
	}
	if err := os.Mkdir(filepath.Join(b.v.dir, dir), 0o700); err != nil {
		return job.Errorf("make the VM's directory", job.Invalid,
			"Give another directory, or remove what an earlier run left there", "%w", err)
	}
	b.v.made = append(b.v.made, filepath.Join(b.v.dir, dir))
	obj, err := b.create(ctx, folder, dir, spec)
	if err != nil {
		return err
	}
	m := &machine{
		v: b.v, number: number, name: spec.Name, path: path + "/" + spec.Name, ref: obj.Self, obj: obj, store: b.store,
		dir: dir,
	}
	b.v.machines = append(b.v.machines, m) // Close closes its disks
	for i, image := range spec.Disks {
		d, err := m.newDisk(firstDiskKey+int32(i), image)
		if err != nil {
			return err
		}
		d.unfit = spec.Unfit[i]
	}
	m.attach()
	// The simulator decides this by the disks that a VM is created with. Ours are added later.
	obj.Capability.ChangeTrackingSupported = hardwareVersion(obj.Config.Version) >= oldestTracking
	if b.v.opt.CBT {
		for _, d := range m.all() {
			d.track(true)
		}
		obj.Config.ChangeTrackingEnabled = new(true)
	}
	for _, name := range spec.Snapshots {
		if _, err := b.v.TakeSnapshot(m.path, name, ""); err != nil {
			return err
		}
	}
	return nil
}

// oldestTracking is the first virtual hardware version with change tracking.
const oldestTracking = 7

func hardwareVersion(s string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(s, "vmx-"))
	if err != nil {
		return 0
	}
	return n
}

// folder finds or makes an inventory folder, and returns its path.
func (b *builder) folder(ctx context.Context, name string) (*object.Folder, string, error) {
	finder := find.NewFinder(b.client)
	dc, err := finder.Datacenter(ctx, datacenterName)
	if err != nil {
		return nil, "", err
	}
	folders, err := dc.Folders(ctx)
	if err != nil {
		return nil, "", err
	}
	root := "/" + datacenterName + "/vm"
	if name == "" {
		return folders.VmFolder, root, nil
	}
	if f, err := finder.Folder(ctx, root+"/"+name); err == nil {
		return f, root + "/" + name, nil
	}
	f, err := folders.VmFolder.CreateFolder(ctx, name)
	return f, root + "/" + name, err
}

func (b *builder) create(ctx context.Context, folder *object.Folder, dir string,
	spec VM,
) (*simulator.VirtualMachine, error) {
	pool, err := find.NewFinder(b.client).ResourcePool(ctx, "/"+datacenterName+"/host/*/Resources")
	if err != nil {
		return nil, err
	}
	task, err := folder.CreateVM(ctx, types.VirtualMachineConfigSpec{
		Name: spec.Name, GuestId: string(types.VirtualMachineGuestOsIdentifierOtherGuest64), Version: spec.Hardware,
		Files: &types.VirtualMachineFileInfo{VmPathName: fmt.Sprintf("[%s] %s/%s.vmx", datastoreName, dir, spec.Name)},
	}, pool, nil)
	if err != nil {
		return nil, err
	}
	info, err := task.WaitForResult(ctx)
	if err != nil {
		return nil, err
	}
	ref, _ := info.Result.(types.ManagedObjectReference)
	if !spec.PoweredOff {
		if task, err = object.NewVirtualMachine(b.client, ref).PowerOn(ctx); err == nil {
			err = task.Wait(ctx)
		}
	}
	obj, ok := b.v.model.Map().Get(ref).(*simulator.VirtualMachine)
	if err == nil && !ok {
		err = fmt.Errorf("the simulator has no such VM after creating it")
	}
	return obj, err
}

// newDisk puts an image into the VM's directory under the name that an ESXi host would give it, and adds the disk.
func (m *machine) newDisk(key int32, image string) (*disk, error) {
	number := len(m.all())
	base := m.dir
	if number > 0 {
		base = fmt.Sprintf("%s_%d", m.dir, number)
	}
	dir := filepath.Join(m.v.dir, m.dir)
	d := &disk{
		id: job.NewDiskID(key), key: key, unit: unitOf(key), label: fmt.Sprintf("Hard disk %d", key-firstDiskKey+1),
		uuid: fmt.Sprintf("6000c290-%04d-%04d-0000-%012d", m.number, key, number),
		file: fmt.Sprintf("[%s] %s/%s.vmdk", datastoreName, m.dir, base), flat: filepath.Join(dir, base+"-flat.vmdk"),
	}
	info, err := os.Stat(image)
	if err != nil {
		return nil, err
	}
	d.image = d.flat
	d.capacity.Store(info.Size())
	if m.v.opt.InPlace {
		if d.image, err = filepath.Abs(image); err == nil {
			err = os.Symlink(d.image, d.flat)
		}
	} else {
		err = copyImage(image, d.flat)
	}
	if err == nil {
		err = d.describe()
	}
	if err == nil {
		err = d.openBase()
	}
	if err != nil {
		return nil, err
	}
	m.add(d)
	return d, nil
}

// unitOf leaves out unit 7, which is the controller's own.
func unitOf(key int32) int32 {
	unit := key - firstDiskKey
	if unit >= 7 {
		unit++
	}
	return unit
}

// describe writes the descriptor beside the flat file.
func (d *disk) describe() error {
	const descriptor = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"vmfs\"\n\n" +
		"RW %d VMFS %q\n"
	text := fmt.Appendf(nil, descriptor, d.capacity.Load()/sectorSize, filepath.Base(d.flat))
	return os.WriteFile(strings.TrimSuffix(d.flat, "-flat.vmdk")+".vmdk", text, 0o600)
}
