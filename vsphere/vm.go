package vsphere

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

var uuidPattern = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)

const vmType = "VirtualMachine"

func vmRef(vm job.VM) types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: vmType, Value: vm.Ref}
}

// Inspect finds a VM by its inventory path, instance or BIOS UUID, managed object id, or a name that no other VM has,
// and describes it. It changes nothing. What looks like a UUID or a managed object id can be a name as well: it has to
// lead to one VM in all its meanings.
//
// Errors are of kind NotFound; Invalid if several VMs match (Next names them); Permission, Auth, Unavailable, Timeout.
func (c *Client) Inspect(ctx context.Context, vm string) (job.VM, error) {
	ref, err := c.find(ctx, vm)
	if err != nil {
		return job.VM{}, err
	}
	return c.describe(ctx, "read VM "+vm, ref)
}

func (c *Client) find(ctx context.Context, vm string) (types.ManagedObjectReference, error) {
	op := "find VM " + vm
	var refs []types.ManagedObjectReference
	var none types.ManagedObjectReference
	err := c.do(ctx, op, 0, func(ctx context.Context) (err error) {
		if strings.HasPrefix(vm, "/") {
			refs, err = c.findByPath(ctx, vm)
			return err
		}
		refs, err = c.findByName(ctx, vm)
		if err == nil && uuidPattern.MatchString(vm) {
			var more []types.ManagedObjectReference
			more, err = c.findByUUID(ctx, vm)
			refs = append(refs, more...)
		}
		return err
	})
	slices.SortFunc(refs, func(a, b types.ManagedObjectReference) int { return cmp.Compare(a.Value, b.Value) })
	refs = slices.Compact(refs)
	switch {
	case err != nil:
		return none, err
	case len(refs) == 0:
		return none, job.Errorf(op, job.NotFound, "Give its inventory path, UUID, managed object id or exact name",
			"the vCenter has no such VM, or %s may not see it", c.cfg.User)
	case len(refs) > 1:
		return none, c.ambiguous(ctx, op, refs)
	}
	return refs[0], nil
}

func (c *Client) findByPath(ctx context.Context, path string) ([]types.ManagedObjectReference, error) {
	ref, err := object.NewSearchIndex(c.vim).FindByInventoryPath(ctx, path)
	if err != nil || ref == nil || ref.Reference().Type != vmType {
		return nil, err
	}
	return []types.ManagedObjectReference{ref.Reference()}, nil
}

// findByUUID looks for the instance UUID, which is unique in a vCenter, and for the BIOS UUID, which clones share.
func (c *Client) findByUUID(ctx context.Context, uuid string) ([]types.ManagedObjectReference, error) {
	var refs []types.ManagedObjectReference
	for _, instance := range []bool{true, false} {
		found, err := object.NewSearchIndex(c.vim).FindAllByUuid(ctx, nil, strings.ToLower(uuid), true, &instance)
		if err != nil {
			return nil, err
		}
		for _, ref := range found {
			refs = append(refs, ref.Reference())
		}
	}
	return refs, nil
}

// findByName finds the VMs of that name, and the one of that managed object id.
func (c *Client) findByName(ctx context.Context, name string) (refs []types.ManagedObjectReference, err error) {
	vms, err := c.allVMs(ctx, "name")
	if err != nil {
		return nil, err
	}
	for _, m := range vms {
		if m.Self.Value == name || m.Name == name || plainName(m.Name) == name {
			refs = append(refs, m.Self)
		}
	}
	return refs, nil
}

// plainName is a name as a person gave it: a vCenter may percent-encode %, / and \ in names.
func plainName(name string) string {
	if plain, err := url.PathUnescape(name); err == nil {
		return plain
	}
	return name
}

// allVMs reads properties of all VMs that the user may see.
func (c *Client) allVMs(ctx context.Context, properties ...string) (vms []mo.VirtualMachine, err error) {
	err = c.inView(ctx, []string{vmType}, func(all *view.ContainerView) error {
		return all.Retrieve(ctx, []string{vmType}, properties, &vms)
	})
	return vms, err
}

// inView hands a view of all entities of these kinds that the user may see, and removes it from the vCenter afterwards.
func (c *Client) inView(ctx context.Context, kinds []string, read func(*view.ContainerView) error) (err error) {
	all, err := view.NewManager(c.vim).CreateContainerView(ctx, c.vim.ServiceContent.RootFolder, kinds, true)
	if err != nil {
		return err
	}
	defer func() {
		timeout := callTimeout
		if ctx.Err() != nil {
			timeout = destroyTimeout // the view ends with the session
		}
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer done()
		if derr := all.Destroy(ctx); err == nil {
			err = derr
		}
	}()
	return read(all)
}

func (c *Client) ambiguous(ctx context.Context, op string, refs []types.ManagedObjectReference) error {
	names := make([]string, 0, len(refs))
	for _, ref := range refs {
		path, _, err := c.inventoryPath(ctx, op, ref)
		if err != nil {
			return err
		}
		names = append(names, fmt.Sprintf("%s (%s)", path, ref.Value))
	}
	slices.Sort(names)
	return job.Errorf(op, job.Invalid, "Name one of them by its path: "+strings.Join(names, ", "),
		"%d VMs match", len(refs))
}

// hostName is the name of an ESXi host. If the user may not read the name it is the host's reference, which tells hosts
// apart as well.
func (c *Client) hostName(ctx context.Context, op string, ref types.ManagedObjectReference) string {
	var m mo.HostSystem
	if err := c.read(ctx, op, ref, &m, func() { m = mo.HostSystem{} }, "name"); err != nil || m.Name == "" {
		return ref.Value
	}
	return m.Name
}

// inventoryPath is a VM's inventory path and that of its datacenter, the latter without a leading slash.
func (c *Client) inventoryPath(ctx context.Context, op string,
	ref types.ManagedObjectReference,
) (path, datacenter string, err error) {
	var chain []mo.ManagedEntity
	err = c.do(ctx, op, 0, func(ctx context.Context) (err error) {
		chain, err = mo.Ancestors(ctx, c.vim, c.vim.ServiceContent.PropertyCollector, ref)
		return err
	})
	for _, e := range chain {
		if e.Self == c.vim.ServiceContent.RootFolder {
			continue
		}
		path += "/" + e.Name
		if e.Self.Type == "Datacenter" {
			datacenter = strings.TrimPrefix(path, "/")
		}
	}
	return path, datacenter, err
}

// sameVM refuses a VM whose reference leads to another one now, or on another vCenter: a job can last for weeks. now is
// what the vCenter has under the reference. A VM without a UUID is not checked.
func (c *Client) sameVM(op string, vm job.VM, now mo.VirtualMachine) error {
	const next = "Run another job for the VM that is meant"
	if id := c.vim.ServiceContent.About.InstanceUuid; vm.VCenterID != "" && id != "" && id != vm.VCenterID {
		return job.Errorf(op, job.Conflict, next, "%s is another vCenter (%s) than the one that has this VM (%s)",
			c.Name(), id, vm.VCenterID)
	}
	if vm.UUID == "" || now.Config == nil || uuidOf(now.Config) == vm.UUID {
		return nil
	}
	return job.Errorf(op, job.Conflict, next, "%s is VM %s (%s) now, and was VM %s (%s)", vm.Ref, now.Name,
		uuidOf(now.Config), vm.Name, vm.UUID)
}

// identity are the properties that sameVM needs.
func identity() []string { return []string{"name", "config.instanceUuid", "config.uuid"} }

// uuidOf is the instance UUID or, on a server that has none, the BIOS UUID.
func uuidOf(c *types.VirtualMachineConfigInfo) string { return cmp.Or(c.InstanceUuid, c.Uuid) }

func (c *Client) describe(ctx context.Context, op string, ref types.ManagedObjectReference) (job.VM, error) {
	var m mo.VirtualMachine
	err := c.read(ctx, op, ref, &m, func() {
		m = mo.VirtualMachine{}
	}, "name", "config", "runtime.powerState", "runtime.host")
	if err != nil {
		return job.VM{}, err
	}
	if m.Config == nil {
		return job.VM{}, job.Errorf(op, job.Unavailable,
			"Look at the VM in the vCenter: it may be inaccessible or orphaned",
			"the vCenter has no configuration of the VM")
	}
	path, datacenter, err := c.inventoryPath(ctx, op, ref)
	if err != nil {
		return job.VM{}, err
	}
	vm := job.VM{
		Ref: ref.Value, UUID: uuidOf(m.Config), Name: m.Name, Path: path, VCenter: c.Name(),
		VCenterID: c.vim.ServiceContent.About.InstanceUuid, Datacenter: datacenter,
		PowerState: string(m.Runtime.PowerState), CBTEnabled: isTrue(m.Config.ChangeTrackingEnabled),
		Disks: disksOf(m.Config.Hardware.Device),
	}
	if m.Runtime.Host != nil {
		vm.Host = c.hostName(ctx, op, *m.Runtime.Host)
	}
	return vm, nil
}
