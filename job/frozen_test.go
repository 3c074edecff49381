package job_test

import (
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

// atSnapshot is a job that waits for its first snapshot.
func atSnapshot(t *testing.T, targets []job.Target, disks ...job.Disk) job.State {
	t.Helper()
	vm := job.VM{Ref: "vm-29", UUID: "50-1", Name: "web", Disks: disks}
	spec, err := job.Spec{VM: "web", Targets: targets}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	assigned, err := job.Assign(spec, vm, "/targets", nil)
	if err != nil {
		t.Fatal(err)
	}
	return apply(t, job.State{}, job.Submitted{ID: "job-1", Mark: "M", Spec: spec}, job.Admitted{},
		job.Inspected{VM: vm, Targets: assigned}, job.CBTReady{})
}

func apply(t *testing.T, st job.State, events ...job.Event) job.State {
	t.Helper()
	for _, ev := range events {
		var err error
		if st, _, err = st.Apply(ev, time.Unix(0, 0).UTC()); err != nil {
			t.Fatal(err)
		}
	}
	return st
}

func TestDisksThatAreNotThoseOfTheJobSayWhatToDo(t *testing.T) {
	a := job.Disk{ID: "disk-2000", Key: 2000, Label: "Hard disk 1", Capacity: 100, BackingID: "a"}
	b := job.Disk{ID: "disk-2001", Key: 2001, Label: "Hard disk 2", Capacity: 100, BackingID: "b"}
	with := func(d job.Disk, f func(*job.Disk)) job.Disk { f(&d); return d }
	grown := with(b, func(d *job.Disk) { d.Capacity = 200 })
	shrunk := with(b, func(d *job.Disk) { d.Capacity = 50 })
	other := with(b, func(d *job.Disk) { d.BackingID = "c" })
	unfit := with(b, func(d *job.Disk) { d.Unfit = "it is independent" })
	named := []job.Target{{Disk: "disk-2000", URI: "/a"}, {Disk: "disk-2001", URI: "/b"}}
	for name, tc := range map[string]struct {
		had     []job.Disk
		targets []job.Target
		frozen  []job.Disk
		kind    job.Kind
		words   []string // in the message
		next    []string
	}{
		"removed": {
			[]job.Disk{a, b},
			nil,
			[]job.Disk{a},
			job.Conflict,
			[]string{"disk-2001 (Hard disk 2) was removed"},
			[]string{"vmferry retry job-1", "/targets/web_50-1/disk-2001.raw) is left alone"},
		},
		"removed, with named targets": {
			[]job.Disk{a, b},
			named,
			[]job.Disk{a},
			job.Conflict,
			[]string{"was removed"},
			[]string{"Run another job that names targets for the disks that are left", "(/b) is left alone"},
		},
		"grown": {
			[]job.Disk{a, b},
			nil,
			[]job.Disk{a, grown},
			job.Conflict,
			[]string{"grew from 100 to 200 bytes"},
			[]string{"vmferry retry job-1", "disk-2001 is copied in full"},
		},
		"shrunk": {
			[]job.Disk{a, b},
			named,
			[]job.Disk{a, shrunk},
			job.Conflict,
			[]string{"shrank from 100 to 50 bytes"},
			[]string{"vmferry retry job-1"},
		},
		"another one under the key": {
			[]job.Disk{a, b},
			nil,
			[]job.Disk{a, other},
			job.Conflict,
			[]string{"disk-2001 (Hard disk 2) is another disk under the same key"},
			[]string{"vmferry retry job-1", "disk-2001 is copied in full"},
		},
		"added, with named targets": {
			[]job.Disk{a},
			named[:1],
			[]job.Disk{a, b},
			job.Conflict,
			[]string{"disk-2001 (Hard disk 2) was added and has no target"},
			[]string{"Run another job that names a target for disk-2001 as well"},
		},
		"added, and can't be copied": {
			[]job.Disk{a},
			nil,
			[]job.Disk{a, unfit},
			job.Unsupported,
			[]string{"was added and can't be copied", "independent"},
			[]string{"Take disk-2001 off the VM", "vmferry retry job-1"},
		},
		"no longer fit": {
			[]job.Disk{a, b},
			nil,
			[]job.Disk{a, unfit},
			job.Unsupported,
			[]string{"can't be copied any more", "independent"},
			[]string{"Take disk-2001 off the VM"},
		},
		"one added, one removed": {
			[]job.Disk{a},
			nil,
			[]job.Disk{b},
			job.Conflict,
			[]string{"disk-2000 (Hard disk 1) was removed"},
			[]string{"vmferry retry job-1"},
		},
	} {
		st := apply(t, atSnapshot(t, tc.targets, tc.had...),
			job.SnapshotTaken{Snapshot: job.VMSnapshot{Ref: "snapshot-1", Disks: tc.frozen}})
		f := st.Failure
		if st.Phase != job.Cleanup || st.Outcome != job.Failed || st.HeldSnapshot.Ref != "snapshot-1" || f == nil {
			t.Errorf("%s: the job is in %s, failure %+v", name, st.Phase, f)
			continue
		}
		if f.Kind != tc.kind || f.Phase != job.Snapshot || strings.HasSuffix(f.Next, ".") {
			t.Errorf("%s: %+v", name, f)
		}
		for _, w := range tc.words {
			if !strings.Contains(f.Message, w) {
				t.Errorf("%s: %q is missing in %q", name, w, f.Message)
			}
		}
		for _, w := range tc.next {
			if !strings.Contains(f.Next, w) {
				t.Errorf("%s: %q is missing in %q", name, w, f.Next)
			}
		}
	}
}

func TestADiskThatWasAddedGetsItsTargetFromItsFirstPlanAndKeepsIt(t *testing.T) {
	disk := func(key int32) job.Disk {
		return job.Disk{ID: job.NewDiskID(key), Key: key, Capacity: 100, ChangeID: "52/1"}
	}
	st := apply(t, atSnapshot(t, nil, disk(2000), disk(2002)), job.SnapshotTaken{
		Snapshot: job.VMSnapshot{Ref: "snapshot-1", Disks: []job.Disk{disk(2000), disk(2001), disk(2002)}},
	})
	if st.Phase != job.Connect || len(st.Disks) != 3 || st.Disks[1].Disk.ID != "disk-2001" || st.Disks[1].Target != "" {
		t.Fatalf("%s, disks %+v", st.Phase, st.Disks)
	}
	plan := func(key int32, target string) job.DiskPlan {
		return job.DiskPlan{Disk: disk(key), Mode: job.Full, Target: target}
	}
	st = apply(t, st, job.TargetsPrepared{
		Disks: []job.DiskPlan{plan(2000, "/never"), plan(2001, "/targets/web/new.raw"), plan(2002, "")},
		Made:  []string{"/targets/web/new.raw"},
	}, job.Planned{Disks: []job.DiskPlan{plan(2000, ""), plan(2001, "/never"), plan(2002, "")}})
	var got []string
	for _, d := range st.Disks {
		got = append(got, d.Target)
	}
	want := "/targets/web_50-1/disk-2000.raw /targets/web/new.raw /targets/web_50-1/disk-2002.raw"
	if strings.Join(got, " ") != want || len(st.Made) != 1 {
		t.Errorf("targets %v, made %v", got, st.Made)
	}
}

// Backings that are not known, as those of a server that does not report them, are no difference.
func TestABackingThatIsNotKnownIsNoChange(t *testing.T) {
	d := job.Disk{ID: "disk-2000", Key: 2000, Capacity: 100, BackingID: "a"}
	unknown := d
	unknown.BackingID = ""
	for _, pair := range [][2]job.Disk{{d, unknown}, {unknown, d}, {d, d}} {
		st := apply(t, atSnapshot(t, nil, pair[0]), job.SnapshotTaken{
			Snapshot: job.VMSnapshot{Ref: "snapshot-1", Disks: pair[1:]},
		})
		if st.Phase != job.Connect {
			t.Errorf("%q then %q: %s, %+v", pair[0].BackingID, pair[1].BackingID, st.Phase, st.Failure)
		}
	}
}
