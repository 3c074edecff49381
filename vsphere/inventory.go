package vsphere

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/vmware/govmomi/view"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// VMs lists all VMs that the user may see, and templates, in the order of their paths. It changes nothing. A VM of
// which the vCenter has no configuration, as an orphaned one, has no disks and no UUID. Errors are of kind Permission,
// Auth, Unavailable, Timeout.
func (c *Client) VMs(ctx context.Context) ([]job.ListedVM, error) {
	var found inventory
	err := c.do(ctx, "list VMs", 0, func(ctx context.Context) error {
		found = inventory{}
		return c.readInventory(ctx, &found)
	})
	if err != nil {
		return nil, err
	}
	return found.list(c.Name(), c.vim.ServiceContent.About.InstanceUuid), nil
}

// inventory is what a listing reads of the vCenter.
type inventory struct {
	vms     []mo.VirtualMachine
	folders []mo.Folder
	centers []mo.Datacenter
	apps    []mo.VirtualApp
	hosts   []mo.HostSystem
}

func (c *Client) readInventory(ctx context.Context, to *inventory) error {
	parts := []struct {
		kind       string
		into       any
		properties []string
	}{
		{vmType, &to.vms, []string{
			"name", "parent", "parentVApp", "config.uuid", "config.instanceUuid", "config.template",
			"config.changeTrackingEnabled", "config.hardware.device", "runtime.powerState", "runtime.host",
		}},
		{"Folder", &to.folders, []string{"name", "parent"}},
		{"Datacenter", &to.centers, []string{"name", "parent"}},
		{"VirtualApp", &to.apps, []string{"name", "parentFolder", "parentVApp"}},
		{"HostSystem", &to.hosts, []string{"name"}},
	}
	kinds := make([]string, 0, len(parts))
	for _, part := range parts {
		kinds = append(kinds, part.kind)
	}
	return c.inView(ctx, kinds, func(all *view.ContainerView) error {
		for _, part := range parts {
			if err := all.Retrieve(ctx, []string{part.kind}, part.properties, part.into); err != nil {
				return err
			}
		}
		return nil
	})
}

// place is where an entity is: its own name, and what it is in.
type place struct {
	name string
	in   *types.ManagedObjectReference
	dc   bool
}

func (v *inventory) list(vcenter, vcenterID string) []job.ListedVM {
	places := map[types.ManagedObjectReference]place{}
	for _, f := range v.folders {
		places[f.Self] = place{name: f.Name, in: f.Parent}
	}
	for _, d := range v.centers {
		places[d.Self] = place{name: d.Name, in: d.Parent, dc: true}
	}
	for _, a := range v.apps {
		places[a.Self] = place{name: a.Name, in: cmp.Or(a.ParentFolder, a.ParentVApp)}
	}
	hosts := map[types.ManagedObjectReference]string{}
	for _, h := range v.hosts {
		hosts[h.Self] = h.Name
	}
	out := make([]job.ListedVM, 0, len(v.vms))
	for i := range v.vms {
		m := &v.vms[i]
		folder, datacenter := pathOf(places, cmp.Or(m.Parent, m.ParentVApp))
		vm := job.ListedVM{Folder: folder, VM: job.VM{
			Ref: m.Self.Value, Name: m.Name, Path: folder + "/" + m.Name, VCenter: vcenter, VCenterID: vcenterID,
			Datacenter: datacenter, PowerState: string(m.Runtime.PowerState),
		}}
		if m.Config != nil {
			vm.UUID, vm.Template = uuidOf(m.Config), m.Config.Template
			vm.CBTEnabled = isTrue(m.Config.ChangeTrackingEnabled)
			vm.Disks = disksOf(m.Config.Hardware.Device)
		}
		if h := m.Runtime.Host; h != nil {
			vm.Host = cmp.Or(hosts[*h], h.Value)
		}
		out = append(out, vm)
	}
	slices.SortFunc(out, func(a, b job.ListedVM) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Ref, b.Ref))
	})
	return out
}

// pathOf is the inventory path of a folder, and that of its datacenter without a leading slash. The root folder is not
// in a view of itself, so it has no name here. What the user may not see is missing in the path.
func pathOf(places map[types.ManagedObjectReference]place, at *types.ManagedObjectReference) (path, datacenter string) {
	for range 100 { // deeper than any inventory, in case that it is no tree
		if at == nil {
			break
		}
		p, ok := places[*at]
		if !ok {
			break
		}
		path = "/" + p.name + path
		if datacenter != "" || p.dc {
			datacenter = strings.TrimSuffix(p.name+"/"+datacenter, "/")
		}
		at = p.in
	}
	return path, datacenter
}
