package vsphere

import (
	"context"
	"slices"

	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// vmPrivileges are needed on the VM, whatever the transport.
func vmPrivileges() []string {
	return []string{
		"VirtualMachine.Config.ChangeTracking", "VirtualMachine.Config.DiskLease",
		"VirtualMachine.Provisioning.DiskRandomRead", "VirtualMachine.Provisioning.GetVmFiles",
		"VirtualMachine.State.CreateSnapshot", "VirtualMachine.State.RemoveSnapshot",
	}
}

// datastorePrivileges are needed to read a disk's file over HTTPS.
func datastorePrivileges() []string { return []string{"Datastore.Browse", "Datastore.FileManagement"} }

// Privileges lists the privileges that the user lacks to copy this VM, by the vCenter's names. The list is empty if
// none is missing. Privileges that this vCenter does not know are not checked.
func (c *Client) Privileges(ctx context.Context, vm job.VM) (missing []string, err error) {
	op := "check privileges on " + vm.Name
	if c.vim.ServiceContent.AuthorizationManager == nil {
		return nil, nil
	}
	known, err := c.knownPrivileges(ctx, op)
	if err != nil {
		return nil, err
	}
	missing, err = c.missingPrivileges(ctx, op, []types.ManagedObjectReference{vmRef(vm)},
		intersect(vmPrivileges(), known))
	if err != nil || c.cfg.Source.Kind == transportVDDK || c.cfg.Source.Kind == transportNBD {
		return missing, err
	}
	var m mo.VirtualMachine
	if err := c.read(ctx, op, vmRef(vm), &m, func() { m = mo.VirtualMachine{} }, "datastore"); err != nil {
		return nil, err
	}
	more, err := c.missingPrivileges(ctx, op, m.Datastore, intersect(datastorePrivileges(), known))
	return append(missing, more...), err
}

func (c *Client) knownPrivileges(ctx context.Context, op string) (map[string]bool, error) {
	var m mo.AuthorizationManager
	err := c.read(ctx, op, *c.vim.ServiceContent.AuthorizationManager, &m, func() {
		m = mo.AuthorizationManager{}
	}, "privilegeList")
	known := make(map[string]bool, len(m.PrivilegeList))
	for _, p := range m.PrivilegeList {
		known[p.PrivId] = true
	}
	return known, err
}

func intersect(wanted []string, known map[string]bool) []string {
	return slices.DeleteFunc(wanted, func(p string) bool { return !known[p] })
}

// missingPrivileges checks all privileges on all entities in one call and lists each that is missing on any of them.
func (c *Client) missingPrivileges(ctx context.Context, op string, on []types.ManagedObjectReference,
	privileges []string,
) (missing []string, err error) {
	if len(on) == 0 || len(privileges) == 0 {
		return nil, nil
	}
	var answer []types.EntityPrivilege
	err = c.do(ctx, op, 0, func(ctx context.Context) error {
		user, err := session.NewManager(c.vim).UserSession(ctx)
		if err != nil {
			return err
		}
		if user == nil {
			return soap.WrapVimFault(&types.NotAuthenticated{})
		}
		res, err := methods.HasPrivilegeOnEntities(ctx, c.vim, &types.HasPrivilegeOnEntities{
			This: *c.vim.ServiceContent.AuthorizationManager, Entity: on, SessionId: user.Key, PrivId: privileges,
		})
		if err == nil {
			answer = res.Returnval
		}
		return err
	})
	for _, entity := range answer {
		for _, p := range entity.PrivAvailability {
			if !p.IsGranted && !slices.Contains(missing, p.PrivId) {
				missing = append(missing, p.PrivId)
			}
		}
	}
	return missing, err
}
