package vsphere_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// onNode connects as the node of that id.
func onNode(tb testing.TB, v *sim.VCenter, id string) *vsphere.Client {
	tb.Helper()
	cfg := config(tb, v)
	cfg.Owner = id
	return connect(tb, cfg)
}

func TestASnapshotOfAnotherNodeJobOrRoundIsNotTakenForOurs(t *testing.T) {
	const name = "vmferry-mine-1"
	for what, description := range map[string]string{
		"of another node":              vsphere.OurText + " Node: node-2 Round: C.1",
		"of another job of the id":     vsphere.OurText + " Node: node-1 Round: B.1",
		"of another round":             vsphere.OurText + " Node: node-1 Round: A.2",
		"of a version without marks":   vsphere.OurText + " Node: node-1",
		"of an early version":          vsphere.OurText,
		"of a mark that begins alike":  vsphere.OurText + " Node: node-1 Round: A.10",
		"of a person":                  "",
		"of a person who cites a node": "Node: node-1 Round: A.1",
	} {
		t.Run(what, func(t *testing.T) {
			v := vcenter(t, sim.Options{CBT: true})
			c := onNode(t, v, "node-1")
			vm := inspect(t, c, "web")
			theirs, err := v.TakeSnapshot("web", name, description)
			must(t, err)
			want := job.SnapshotRef{Name: name, Mark: "A.1"}
			got, err := c.Snapshot(t.Context(), vm, want, false)
			must(t, err)
			if got.Ref == theirs {
				t.Fatal("it was adopted")
			}
			again, err := c.Snapshot(t.Context(), vm, want, false)
			must(t, err)
			if again.Ref != got.Ref {
				t.Errorf("our own is %s, and then %s", got.Ref, again.Ref)
			}
			want.Ref = theirs
			wantKind(t, c.RemoveSnapshot(t.Context(), vm, want), job.Conflict, name, theirs)
			want.Ref = ""
			must(t, c.RemoveSnapshot(t.Context(), vm, want))
			list, err := v.Snapshots("web")
			must(t, err)
			if len(list) != 1 || list[0].Ref != theirs {
				t.Errorf("snapshots %+v", list)
			}
		})
	}
}

func TestASnapshotThatAnotherNodeTookForACopyOfTheJobIsNotAdopted(t *testing.T) {
	v := vcenter(t, sim.Options{CBT: true})
	want := job.SnapshotRef{Name: "vmferry-mine-1", Mark: "A.1"}
	theirs, err := onNode(t, v, "node-2").Snapshot(t.Context(), inspect(t, onNode(t, v, "node-2"), "web"), want, false)
	must(t, err)
	c := onNode(t, v, "node-1")
	ours, err := c.Snapshot(t.Context(), inspect(t, c, "web"), want, false)
	must(t, err)
	if ours.Ref == theirs.Ref {
		t.Error("it was adopted")
	}
	must(t, c.RemoveSnapshot(t.Context(), inspect(t, c, "web"), want))
	list, err := v.Snapshots("web")
	must(t, err)
	if len(list) != 1 || list[0].Ref != theirs.Ref {
		t.Errorf("snapshots %+v", list)
	}
}

// A job of a version without marks goes on after an upgrade. Its snapshot is found by name, on a server that encodes
// names as well.
func TestASnapshotOfAVersionWithoutMarksIsFoundByNameOnItsNodeOnly(t *testing.T) {
	const name = "vmferry/job-1/1"
	for _, escape := range []bool{false, true} {
		v := vcenter(t, sim.Options{CBT: true, EscapeNames: escape})
		theirs, err := v.TakeSnapshot("web", name, vsphere.OurText+" Node: node-2")
		must(t, err)
		_, err = v.TakeSnapshot("web", name, vsphere.OurText+" Node: node-1 Round: A.1")
		must(t, err)
		old, err := v.TakeSnapshot("web", name, vsphere.OurText+" Node: node-1")
		must(t, err)
		c := onNode(t, v, "node-1")
		vm := inspect(t, c, "web")
		got, err := c.Snapshot(t.Context(), vm, job.SnapshotRef{Name: name}, false)
		must(t, err)
		if got.Ref != old || got.Name != name {
			t.Errorf("found %s %s, want %s", got.Ref, got.Name, old)
		}
		wantKind(t, c.RemoveSnapshot(t.Context(), vm, job.SnapshotRef{Ref: theirs, Name: name}), job.Conflict, "node-2")
		for range 2 {
			must(t, c.RemoveSnapshot(t.Context(), vm, job.SnapshotRef{Ref: old, Name: name}))
		}
		early, err := v.TakeSnapshot("web", name, vsphere.OurText)
		must(t, err)
		another := job.SnapshotRef{Ref: early, Name: "vmferry/job-2/1"}
		wantKind(t, c.RemoveSnapshot(t.Context(), vm, another), job.Conflict)
		must(t, c.RemoveSnapshot(t.Context(), vm, job.SnapshotRef{Ref: early, Name: name}))
		if list := snapshotNames(t, v); len(list) != 2 {
			t.Errorf("snapshots %v", list)
		}
	}
}

func TestOurSnapshotsAreListedWithNodeAndMark(t *testing.T) {
	v := vcenter(t, sim.Options{CBT: true, EscapeNames: true})
	for name, description := range map[string]string{
		"vmferry/old/1": vsphere.OurText + " Node: node-2", "vmferry/early/1": vsphere.OurText, "by hand": "vmferry",
		"vmferry/enable-change-tracking": vsphere.OurText + " Node: node-2",
	} {
		_, err := v.TakeSnapshot("web", name, description)
		must(t, err)
	}
	c := onNode(t, v, "node-1")
	_, err := c.Snapshot(t.Context(), inspect(t, c, "web"), job.SnapshotRef{Name: "vmferry-job-1", Mark: "A.1"}, false)
	must(t, err)
	found, err := c.OurSnapshots(t.Context())
	must(t, err)
	type row struct {
		owner, mark string
		activation  bool
	}
	got := map[string]row{}
	for _, s := range found {
		got[s.Name] = row{s.Owner, s.Mark, s.Activation}
		if s.Ref == "" || s.TakenAt.IsZero() || s.VM.Name != "web" {
			t.Errorf("%+v", s)
		}
	}
	want := map[string]row{
		"vmferry/old/1": {"node-2", "", false}, "vmferry/early/1": {}, "vmferry-job-1": {"node-1", "A.1", false},
		"vmferry/enable-change-tracking": {"node-2", "", true},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(row{})); diff != "" {
		t.Errorf("snapshots (-want +got):\n%s", diff)
	}
}

func TestASnapshotThatAnotherProgramRemovedIsMissed(t *testing.T) {
	v := vcenter(t, sim.Options{CBT: true})
	c := onNode(t, v, "node-1")
	vm := inspect(t, c, "web")
	s := snapshot(t, c, vm, "vmferry-job-1")
	must(t, c.CheckSnapshot(t.Context(), vm, held(s)))
	other := held(s)
	other.Mark = "another"
	wantKind(t, c.CheckSnapshot(t.Context(), vm, other), job.Conflict)
	must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
	wantKind(t, c.CheckSnapshot(t.Context(), vm, held(s)), job.Conflict, s.Ref, "removed by another program", "retry")
	gone := vm
	gone.Ref = "vm-99999"
	wantKind(t, c.CheckSnapshot(t.Context(), gone, held(s)), job.Conflict)
}
