package vsphere_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

func TestASnapshotOfOneNameIsTakenOnce(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c, vm := tracked(t, v)
	first := snapshot(t, c, vm, "vmferry-job-1")
	again := snapshot(t, c, vm, "vmferry-job-1")
	if diff := cmp.Diff(first, again); diff != "" {
		t.Errorf("the second is another (-first +second):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"vmferry-job-1"}, snapshotNames(t, v)); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
	for _, d := range first.Disks {
		if len(strings.SplitN(d.ChangeID, "/", 2)) != 2 || strings.Contains(d.File, "-0000") {
			t.Errorf("frozen disk %+v", d)
		}
	}
}

func TestASnapshotOfAnotherWithOurNameIsNotAdoptedAndNotRemoved(t *testing.T) {
	m := web(t)
	m.Snapshots = []string{"vmferry-job-1"}
	v := vcenter(t, sim.Options{VMs: []sim.VM{m}, CBT: true})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	list, err := v.Snapshots("web")
	must(t, err)
	foreign := list[0].Ref
	ours := snapshot(t, c, vm, "vmferry-job-1")
	if ours.Ref == foreign {
		t.Fatal("another's snapshot was adopted")
	}
	wantKind(t, c.RemoveSnapshot(t.Context(), vm, job.SnapshotRef{Ref: foreign}), job.Conflict, "not made by vmferry")
	must(t, c.RemoveSnapshot(t.Context(), vm, named("vmferry-job-1")))
	list, err = v.Snapshots("web")
	must(t, err)
	if len(list) != 1 || list[0].Ref != foreign {
		t.Errorf("snapshots %+v", list)
	}
}

func TestASnapshotIsRemovedByReferenceOrByNameAndOnlyOnce(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c, vm := tracked(t, v)
	s := snapshot(t, c, vm, "vmferry-job-1")
	for range 2 {
		must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
	}
	snapshot(t, c, vm, "vmferry-job-2")
	for range 2 {
		must(t, c.RemoveSnapshot(t.Context(), vm, named("vmferry-job-2")))
	}
	must(t, c.RemoveSnapshot(t.Context(), vm, job.SnapshotRef{}))
	if got := snapshotNames(t, v); len(got) > 0 {
		t.Errorf("snapshots are left: %v", got)
	}
	gone := vm
	gone.Ref = "vm-99999"
	must(t, c.RemoveSnapshot(t.Context(), gone, job.SnapshotRef{Ref: "snapshot-1"}))
}

func TestRemovingASnapshotInTheMiddleKeepsTheOthersAndTheLiveState(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c, vm := tracked(t, v)
	a := snapshot(t, c, vm, "vmferry-a-1")
	must(t, v.GuestScribble("web", "disk-2000", 100, 200*kib, 1))
	b := snapshot(t, c, vm, "vmferry-b-1")
	must(t, v.GuestScribble("web", "disk-2000", 64*kib, 200*kib, 2))
	d := snapshot(t, c, vm, "vmferry-d-1")
	must(t, v.GuestScribble("web", "disk-2000", 130*kib, 200*kib, 3))
	want := []string{
		imageDigest(t, v, a.Ref, "disk-2000"), imageDigest(t, v, d.Ref, "disk-2000"),
		imageDigest(t, v, "", "disk-2000"),
	}
	must(t, c.RemoveSnapshot(t.Context(), vm, held(b)))
	got := []string{
		imageDigest(t, v, a.Ref, "disk-2000"), imageDigest(t, v, d.Ref, "disk-2000"),
		imageDigest(t, v, "", "disk-2000"),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("digests (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"vmferry-a-1", "vmferry-d-1"}, snapshotNames(t, v)); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
}

func TestQuiescedIsWhatTheVCenterSays(t *testing.T) {
	for _, tc := range []struct {
		name    string
		quiesce bool
		fault   sim.FaultKind
		want    bool
	}{
		{"asked for", true, "", true},
		{"not asked for", false, "", false},
		{"failed", true, sim.FaultQuiesce, false},
		{"silently left out", true, sim.FaultQuiesceIgnored, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := vcenter(t, sim.Options{})
			var out logged
			cfg := config(t, v)
			cfg.Log = out.logger()
			c := connect(t, cfg)
			if tc.fault != "" {
				must(t, v.Inject(sim.Fault{Kind: tc.fault}))
			}
			s, err := c.Snapshot(t.Context(), inspect(t, c, "web"), named("vmferry-job-1"), tc.quiesce)
			must(t, err)
			if s.Quiesced != tc.want {
				t.Errorf("quiesced %v, want %v", s.Quiesced, tc.want)
			}
			if told := strings.Contains(out.String(), "not quiesced"); told != (tc.quiesce && !tc.want) {
				t.Errorf("the log says:\n%s", out.String())
			}
		})
	}
}

func TestATaskThatFailsIsAnErrorOfItsKind(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	for _, tc := range []struct {
		fault string
		kind  job.Kind
	}{
		{"NoPermission", job.Permission},
		{"NoDiskSpace", job.NoSpace},
		{"TaskInProgress", job.Unavailable},
		{"HostNotConnected", job.Unavailable},
		{"SnapshotDisabled", job.Unsupported},
		{"FileLocked", job.IO},
		{"InvalidPowerState", job.Conflict},
		{"SystemError", job.Unavailable},
		{"Timedout", job.Unavailable},
	} {
		must(t, v.Inject(sim.Fault{Kind: sim.FaultTask, Op: "CreateSnapshot_Task", Fault: tc.fault}))
		_, err := c.Snapshot(t.Context(), vm, named("vmferry-job-1"), false)
		wantKind(t, err, tc.kind, "take snapshot of web")
	}
	if got := snapshotNames(t, v); len(got) > 0 {
		t.Errorf("snapshots are left: %v", got)
	}
}

func TestASnapshotWhoseCallerGivesUpIsRemoved(t *testing.T) {
	v := vcenter(t, sim.Options{TaskTime: 200 * time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	cfg := config(t, v)
	cfg.OnTask = func(op string, _ int) {
		if strings.HasPrefix(op, "take snapshot") {
			cancel()
		}
	}
	c := connect(t, cfg)
	_, err := c.Snapshot(ctx, inspect(t, c, "web"), named("vmferry-job-1"), true)
	wantKind(t, err, job.Cancelled)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the cause is not in %v", err)
	}
	if got := snapshotNames(t, v); len(got) > 0 {
		t.Errorf("snapshots are left: %v", got)
	}
}

func TestASnapshotTaskFromBeforeACrashIsWaitedForAndItsSnapshotAdopted(t *testing.T) {
	v := vcenter(t, sim.Options{TaskTime: 300 * time.Millisecond})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	must(t, v.Inject(sim.Fault{Kind: sim.FaultAnswerLost, Op: "CreateSnapshot_Task"}))
	_, err := c.Snapshot(t.Context(), vm, named("vmferry-job-1"), false)
	wantKind(t, err, job.Unavailable)

	s := snapshot(t, connect(t, config(t, v)), vm, "vmferry-job-1")
	if diff := cmp.Diff([]string{"vmferry-job-1"}, snapshotNames(t, v)); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
	must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
}

func TestASnapshotThatIsStillBeingTakenIsRemovedByItsName(t *testing.T) {
	v := vcenter(t, sim.Options{TaskTime: 200 * time.Millisecond})
	c := connect(t, config(t, v))
	vm := inspect(t, c, "web")
	must(t, v.Inject(sim.Fault{Kind: sim.FaultAnswerLost, Op: "CreateSnapshot_Task"}))
	_, err := c.Snapshot(t.Context(), vm, named("vmferry-job-1"), false)
	wantKind(t, err, job.Unavailable)
	must(t, c.RemoveSnapshot(t.Context(), vm, named("vmferry-job-1")))
	if got := snapshotNames(t, v); len(got) > 0 {
		t.Errorf("snapshots are left: %v", got)
	}
}

func TestDisksAreConsolidatedIfTheVCenterAsksForIt(t *testing.T) {
	v := vcenter(t, sim.Options{})
	var out logged
	cfg := config(t, v)
	cfg.Log = out.logger()
	c := connect(t, cfg)
	vm := inspect(t, c, "web")
	for _, unsupported := range []bool{false, true} {
		s := snapshot(t, c, vm, "vmferry-job-1")
		must(t, v.Inject(sim.Fault{Kind: sim.FaultConsolidation}))
		if unsupported {
			must(t, v.Inject(sim.Fault{Kind: sim.FaultCall, Op: "ConsolidateVMDisks_Task", Fault: "NotSupported"}))
		}
		must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
		if told := strings.Contains(out.String(), "cannot consolidate"); told != unsupported {
			t.Errorf("unsupported %v, and the log says:\n%s", unsupported, out.String())
		}
	}
}

func TestTasksReportTheirProgress(t *testing.T) {
	v := vcenter(t, sim.Options{TaskTime: 250 * time.Millisecond})
	seen := map[string][]int{}
	cfg := config(t, v)
	cfg.OnTask = func(op string, percent int) { seen[op] = append(seen[op], percent) }
	c := connect(t, cfg)
	snapshot(t, c, inspect(t, c, "web"), "vmferry-job-1")
	got := seen["take snapshot of web"]
	if len(got) < 3 || got[len(got)-1] != 100 {
		t.Errorf("percents %v", got)
	}
	for i := 1; i < len(got); i++ {
		if got[i] < got[i-1] {
			t.Errorf("the percents decrease: %v", got)
		}
	}
}
