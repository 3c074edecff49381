package vsphere_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

func TestAVMIsFoundByPathNameUUIDAndReference(t *testing.T) {
	v := vcenter(t, sim.Options{VMs: []sim.VM{web(t), {Name: "off", PoweredOff: true}}})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	want := job.VM{
		Name: "web", Path: "/DC0/vm/web", VCenter: "127.0.0.1", Datacenter: "DC0", Host: "DC0_H0",
		PowerState: "poweredOn",
		Disks: []job.Disk{
			{
				ID: "disk-2000", Key: 2000, Label: "Hard disk 1", File: "[LocalDS_0] web/web.vmdk",
				Datastore: "LocalDS_0", Capacity: 24 * mib, Thin: true,
			},
			{
				ID: "disk-2001", Key: 2001, Label: "Hard disk 2", File: "[LocalDS_0] web/web_1.vmdk",
				Datastore: "LocalDS_0", Capacity: 10*mib + 512, Unit: 1, Thin: true,
			},
		},
	}
	if diff := cmp.Diff(want, vm, cmpopts.IgnoreFields(job.VM{}, "Ref", "UUID"),
		cmpopts.IgnoreFields(job.Disk{}, "BackingID")); diff != "" {
		t.Errorf("VM (-want +got):\n%s", diff)
	}
	if vm.Disks[0].BackingID == vm.Disks[1].BackingID || vm.Disks[0].BackingID == "" {
		t.Errorf("backings %q and %q are not told apart", vm.Disks[0].BackingID, vm.Disks[1].BackingID)
	}
	for _, by := range []string{vm.Path, vm.Ref, vm.UUID, strings.ToUpper(vm.UUID)} {
		if diff := cmp.Diff(vm, inspect(t, c, by)); diff != "" {
			t.Errorf("found by %s (-want +got):\n%s", by, diff)
		}
	}
	if got := inspect(t, c, "off").PowerState; got != "poweredOff" {
		t.Errorf("power state %s", got)
	}
}

func TestAVMThatIsNotThereOrNotOneIsAnError(t *testing.T) {
	v := vcenter(t, sim.Options{VMs: []sim.VM{web(t), {Name: "web", Folder: "old"}, {Name: "web2"}}})
	c := connect(t, config(t, v))
	for _, name := range []string{
		"nosuch", "we*", "", "/DC0/vm/nosuch", "/DC0/vm", "vm-99999", "00000000-0000-0000-0000-000000000000",
	} {
		_, err := c.Inspect(t.Context(), name)
		wantKind(t, err, job.NotFound)
	}
	_, err := c.Inspect(t.Context(), "web")
	wantKind(t, err, job.Invalid, "/DC0/vm/web (vm-", "/DC0/vm/old/web (vm-", "2 VMs")
	if got := inspect(t, c, "/DC0/vm/old/web").Path; got != "/DC0/vm/old/web" {
		t.Errorf("path %s", got)
	}
}

func TestDisksThatCannotBeCopiedSayWhy(t *testing.T) {
	vm := web(t)
	vm.Disks = append(vm.Disks, image(t, mib), image(t, mib))
	vm.Unfit = map[int]string{1: "independent", 2: "rdm", 3: "shared"}
	v := vcenter(t, sim.Options{VMs: []sim.VM{vm}})
	c, got := tracked(t, v)
	for i, word := range []string{"", "independent", "physical mode", "several VMs"} {
		if u := got.Disks[i].Unfit; (u == "") != (word == "") || !strings.Contains(u, word) {
			t.Errorf("disk %d is unfit %q, want %q in it", i, u, word)
		}
	}
	s := snapshot(t, c, got, "vmferry-job-1")
	_, err := c.Export(t.Context(), got, s, "disk-2001")
	wantKind(t, err, job.Unsupported, "independent")
}

func TestMissingPrivilegesAreListed(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	missing, err := c.Privileges(t.Context(), vm)
	must(t, err)
	if len(missing) > 0 {
		t.Errorf("missing %v", missing)
	}
	for _, p := range []string{"VirtualMachine.State.CreateSnapshot", "Datastore.Browse"} {
		must(t, v.Inject(sim.Fault{Kind: sim.FaultPrivilege, Op: p}))
	}
	missing, err = c.Privileges(t.Context(), vm)
	must(t, err)
	if diff := cmp.Diff([]string{"VirtualMachine.State.CreateSnapshot", "Datastore.Browse"}, missing); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
}
