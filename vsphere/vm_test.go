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
	if diff := cmp.Diff(want, vm, cmpopts.IgnoreFields(job.VM{}, "Ref", "UUID", "VCenterID"),
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

// A VM can have a name that looks like the reference or the UUID of another one.
func TestANameThatLooksLikeAReferenceOrUUIDIsLookedUpBothWays(t *testing.T) {
	plain := connect(t, config(t, vcenter(t, sim.Options{VMs: []sim.VM{web(t), {Name: "other"}}})))
	one, two := inspect(t, plain, "web"), inspect(t, plain, "other") // the same again below
	const free = "11111111-2222-3333-4444-555555555555"
	v := vcenter(t, sim.Options{VMs: []sim.VM{
		web(t), {Name: "other"}, {Name: one.Ref}, {Name: two.UUID}, {Name: "vm-99999"}, {Name: free},
	}})
	c := connect(t, config(t, v))
	for name, path := range map[string]string{one.Ref: "/DC0/vm/web", two.UUID: "/DC0/vm/other"} {
		_, err := c.Inspect(t.Context(), name)
		wantKind(t, err, job.Invalid, path+" (", "/DC0/vm/"+name+" (", "2 VMs")
	}
	for _, name := range []string{"vm-99999", free} {
		if got := inspect(t, c, name); got.Name != name {
			t.Errorf("%s is %s", name, got.Path)
		}
	}
	if got := inspect(t, c, one.UUID); got.Name != "web" {
		t.Errorf("%s is %s", one.UUID, got.Path)
	}
}

func TestAReferenceThatLeadsToAnotherVMNowIsRefusedBeforeAnythingIsDone(t *testing.T) {
	v := vcenter(t, sim.Options{VMs: []sim.VM{web(t), {Name: "other", Disks: []string{image(t, mib)}}}})
	c := connect(t, config(t, v))
	was, other := inspect(t, c, "web"), inspect(t, c, "other")
	was.Ref = other.Ref
	_, err := c.EnsureCBT(t.Context(), was)
	wantKind(t, err, job.Conflict, other.Ref, "other", "web")
	_, err = c.Snapshot(t.Context(), was, named("vmferry-job-1"), false)
	wantKind(t, err, job.Conflict, other.Ref, "other", "web")
	list, err := v.Snapshots("other")
	must(t, err)
	if len(list) > 0 || inspect(t, c, "other").CBTEnabled {
		t.Errorf("the other VM was changed: %+v", list)
	}
}

func TestAVMOfAnotherVCenterIsRefused(t *testing.T) {
	a := connect(t, config(t, vcenter(t, sim.Options{InstanceUUID: "aaaaaaaa-2222-3333-4444-555555555555"})))
	v := vcenter(t, sim.Options{})
	again := inspect(t, connect(t, config(t, vcenter(t, sim.Options{}))), "web")
	c := connect(t, config(t, v))
	if got := inspect(t, c, "web").VCenterID; got == "" || got != again.VCenterID {
		t.Errorf("the vCenter is %q, and %q when it was started again", got, again.VCenterID)
	}
	_, err := c.Snapshot(t.Context(), inspect(t, a, "web"), named("vmferry-job-1"), false)
	wantKind(t, err, job.Conflict, "another vCenter", "aaaaaaaa-2222")
	if got := snapshotNames(t, v); len(got) > 0 {
		t.Errorf("snapshots %v", got)
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
