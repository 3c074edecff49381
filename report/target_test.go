package report_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

func twoDisks() []job.Disk {
	return []job.Disk{
		{ID: "disk-2000", Key: 2000, Capacity: 1 << 30, ChangeID: "52/1"},
		{ID: "disk-2001", Key: 2001, Capacity: 1 << 30, ChangeID: "52/1"},
	}
}

// moved are the events of one round of a job with a file and an export as targets, up to its commit.
func moved(mode job.Mode) []job.Event {
	disks := twoDisks()
	plans := []job.DiskPlan{
		{Disk: disks[0], Mode: mode, ToTransfer: 1 << 20, TargetIdentity: "file a", Volume: "v1", Stamped: true},
		{Disk: disks[1], Mode: mode, ToTransfer: 1 << 20, TargetIdentity: "nbd b", Volume: "v2"},
	}
	return []job.Event{
		job.SnapshotTaken{Snapshot: job.VMSnapshot{Ref: "snapshot-1", Disks: disks}},
		job.TargetsPrepared{Disks: plans},
		job.Planned{Disks: plans},
		job.DiskMoved{Disk: "disk-2000", Attempt: 1},
		job.DiskMoved{Disk: "disk-2001", Attempt: 1},
		job.SetCommitted{},
	}
}

func TestADiskSaysSinceWhenItsTargetIsProvedAndWhetherWritesOfOthersShow(t *testing.T) {
	spec, err := job.Spec{VM: "web", Options: job.Options{
		Verify: job.VerifyNone, Cutover: job.CutoverManual,
	}}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	now, st := time.Unix(1e9, 0), job.State{}
	apply := func(evs ...job.Event) report.Report {
		t.Helper()
		for _, ev := range evs {
			now = now.Add(time.Minute)
			if st, _, err = st.Apply(ev, now); err != nil {
				t.Fatal(err)
			}
		}
		return report.NewBuilder(st, nil).Report(now, false)
	}
	proved := func(r report.Report, want time.Time) {
		t.Helper()
		for _, d := range r.Disks {
			if got := d.ProvedAt; (got == nil) != want.IsZero() || got != nil && !got.Equal(want) {
				t.Errorf("%s, %s: proved at %v, want %v", r.Phase, d.DiskID, got, want)
			}
		}
	}
	first, again := moved(job.Full), moved(job.Incremental)
	r := apply(job.Submitted{ID: "job-1", Spec: spec}, job.Admitted{}, job.Inspected{
		VM: job.VM{Name: "web", UUID: "u", Disks: twoDisks()},
		Targets: []job.Target{
			{Disk: "disk-2000", URI: "/t/a"}, {Disk: "disk-2001", URI: "nbd+unix:///?socket=/run/b"},
		},
	})
	if r.Disks[0].Stamped != nil || len(r.Notes) != 0 {
		t.Errorf("before the targets are prepared: %v, notes %q", r.Disks[0].Stamped, r.Notes)
	}
	r = apply(append([]job.Event{job.CBTReady{}}, first[:5]...)...)
	proved(r, time.Time{})
	if s := r.Disks[0].Stamped; s == nil || !*s {
		t.Errorf("the file: %v", s)
	}
	if s := r.Disks[1].Stamped; s == nil || *s {
		t.Errorf("the export: %v", s)
	}
	if !slices.ContainsFunc(r.Notes, func(n string) bool {
		return strings.HasPrefix(n, "disk-2001: an export can't be stamped")
	}) || len(r.Notes) != 1 {
		t.Errorf("notes %q", r.Notes)
	}
	r = apply(first[5:]...)
	committed := now
	proved(r, committed)
	r = apply(job.SnapshotGone{}, job.CommandReceived{Verb: job.Sync})
	proved(r, committed) // the round has begun, and nothing was written
	proved(apply(again[:3]...), committed)
	r = apply(again[3:]...)
	proved(r, now)
	// The first byte of a full copy makes what was proved untrue.
	apply(job.SnapshotGone{}, job.CommandReceived{Verb: job.Sync}, first[0])
	proved(apply(first[1:3]...), time.Time{})
	proved(apply(first[3:]...), now)
}

func TestATargetOfAnEarlierVersionIsNotSaidToBeWithoutAStamp(t *testing.T) {
	r := report.NewBuilder(running(t, time.Unix(1e9, 0)), nil).Report(time.Unix(1e9, 0), false)
	if d := r.Disks[0]; d.Stamped != nil || d.ProvedAt != nil || len(r.Notes) != 0 {
		t.Errorf("stamped %v, proved at %v, notes %q", d.Stamped, d.ProvedAt, r.Notes)
	}
}
