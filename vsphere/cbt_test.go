package vsphere_test

import (
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
	"github.com/vmferry/vmferry/vsphere/sim"
)

func TestChangeTrackingIsEnabledOnceAndLogged(t *testing.T) {
	for _, off := range []bool{false, true} {
		vm := web(t)
		vm.PoweredOff = off
		v := vcenter(t, sim.Options{VMs: []sim.VM{vm}})
		var out logged
		cfg := config(t, v)
		cfg.Log = out.logger()
		c := connect(t, cfg)
		for i, want := range []bool{true, false} {
			enabled, err := c.EnsureCBT(t.Context(), inspect(t, c, "web"))
			must(t, err)
			if enabled != want {
				t.Errorf("call %d: enabled %v, want %v", i, enabled, want)
			}
		}
		for _, line := range []string{"Change tracking is not enabled", "CBT enabled successfully"} {
			if n := strings.Count(out.String(), line); n != 1 {
				t.Errorf("%q is %d times in the log:\n%s", line, n, out.String())
			}
		}
		if got := snapshotNames(t, v); len(got) > 0 {
			t.Errorf("snapshots are left: %v", got)
		}
		if !inspect(t, c, "web").CBTEnabled {
			t.Error("it is still off")
		}
	}
}

func TestChangeTrackingIsLeftAloneWhereItIsOn(t *testing.T) {
	vm := web(t)
	vm.Snapshots = []string{"before the update"}
	v := vcenter(t, sim.Options{VMs: []sim.VM{vm}, CBT: true})
	c := connect(t, config(t, v))
	enabled, err := c.EnsureCBT(t.Context(), inspect(t, c, "web"))
	must(t, err)
	if enabled {
		t.Error("EnsureCBT says that it was off")
	}
}

func TestChangeTrackingIsRefusedWhereItCannotStart(t *testing.T) {
	vm := web(t)
	vm.Snapshots = []string{"before the update", "and after"}
	v := vcenter(t, sim.Options{VMs: []sim.VM{vm, {Name: "old", Hardware: "vmx-04", Disks: []string{image(t, mib)}}}})
	c := connect(t, config(t, v))
	_, err := c.EnsureCBT(t.Context(), inspect(t, c, "web"))
	wantKind(t, err, job.Conflict, `"before the update", "and after"`, "Remove these snapshots")
	_, err = c.EnsureCBT(t.Context(), inspect(t, c, "old"))
	wantKind(t, err, job.Unsupported, "vmx-04", "vmx-07")
	if got := inspect(t, c, "web"); got.CBTEnabled || len(snapshotNames(t, v)) != 2 {
		t.Errorf("something was changed: %+v", got)
	}
}

func TestChangeTrackingFailsWithItsReasonAndLeavesNothing(t *testing.T) {
	for _, tc := range []struct {
		fault sim.Fault
		kind  job.Kind
	}{
		{sim.Fault{Kind: sim.FaultCall, Op: "ReconfigVM_Task", Fault: "NoPermission"}, job.Permission},
		{sim.Fault{Kind: sim.FaultTask, Op: "ReconfigVM_Task", Fault: "InvalidPowerState"}, job.Conflict},
		{sim.Fault{Kind: sim.FaultTask, Op: "CreateSnapshot_Task", Fault: "NoDiskSpace"}, job.NoSpace},
	} {
		v := vcenter(t, sim.Options{})
		c := connect(t, config(t, v))
		must(t, v.Inject(tc.fault))
		_, err := c.EnsureCBT(t.Context(), inspect(t, c, "web"))
		wantKind(t, err, tc.kind, "enable change tracking of web")
		if got := snapshotNames(t, v); len(got) > 0 {
			t.Errorf("snapshots are left: %v", got)
		}
	}
}

func TestASnapshotLeftByACrashWhileTrackingWasEnabledIsRemoved(t *testing.T) {
	v := vcenter(t, sim.Options{})
	cfg := config(t, v)
	cfg.Owner = "node-1"
	c := connect(t, cfg)
	vm := inspect(t, c, "web")
	leave := func(i int) {
		if i == 0 { // as a version without marks
			_, err := v.TakeSnapshot("web", "vmferry/enable-change-tracking", vsphere.OurText+" Node: node-1")
			must(t, err)
			return
		}
		_, err := c.Snapshot(t.Context(), vm,
			job.SnapshotRef{Name: vsphere.ActivationName, Mark: vsphere.ActivationMark}, false)
		must(t, err)
	}
	for i, want := range []bool{true, false} {
		leave(i)
		enabled, err := c.EnsureCBT(t.Context(), vm)
		must(t, err)
		if enabled != want || len(snapshotNames(t, v)) > 0 {
			t.Errorf("enabled %v, want %v; snapshots %v", enabled, want, snapshotNames(t, v))
		}
	}
}

func TestASnapshotWithWhichAnotherNodeEnablesTrackingStays(t *testing.T) {
	v := vcenter(t, sim.Options{CBT: true})
	cfg := config(t, v)
	cfg.Owner = "node-1"
	c := connect(t, cfg)
	for _, description := range []string{
		vsphere.OurText + " Node: node-2", vsphere.OurText + " Node: node-2 Round: " + vsphere.ActivationMark,
	} {
		_, err := v.TakeSnapshot("web", vsphere.ActivationName, description)
		must(t, err)
	}
	vm := inspect(t, c, "web")
	_, err := c.EnsureCBT(t.Context(), vm)
	must(t, err)
	must(t, c.RemoveSnapshot(t.Context(), vm, named("vmferry-job-1")))
	if got := snapshotNames(t, v); len(got) != 2 {
		t.Errorf("snapshots %v", got)
	}
}
