package sim_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

// begins reads the first bytes of a disk: live, or as a snapshot froze it.
func begins(t *testing.T, v *sim.VCenter, snapshot string, id job.DiskID) string {
	t.Helper()
	r, err := v.FrozenReader("web", snapshot, id)
	must(t, err)
	p := make([]byte, 5)
	_, err = r.ReadAt(p, 0)
	must(t, err)
	return string(p)
}

func disksOf(v *sim.VCenter) (out []string) {
	for _, d := range v.State().VMs[0].Disks {
		out = append(out, fmt.Sprintf("%s %d %v", d.ID, d.Capacity, d.Tracked))
	}
	return out
}

func TestDisksAreAddedRemovedReplacedAndGrownWhileTheVMRuns(t *testing.T) {
	opt := oneVM(t, mib)
	opt.CBT = true
	v := start(t, opt)
	id, err := v.AddDisk("web", image(t, 2*mib))
	must(t, err)
	if got := fmt.Sprint(disksOf(v)); id != "disk-2001" || got != "[disk-2000 1048576 true disk-2001 2097152 false]" {
		t.Errorf("after the addition: %s", got)
	}
	if got := begins(t, v, "", id); got != "first" {
		t.Errorf("it begins with %q", got)
	}
	ref, err := v.TakeSnapshot("web", "one", "")
	must(t, err)
	if got := fmt.Sprint(disksOf(v)); !strings.Contains(got, "disk-2001 2097152 true") {
		t.Errorf("it is not tracked from the snapshot on: %s", got)
	}
	if err := v.GrowDisk("web", id, 4*mib); job.KindOf(err) != job.Conflict {
		t.Errorf("a disk with a snapshot grows: %v", err)
	}
	must(t, v.GuestWrite("web", id, 0, []byte("FIRST")))
	must(t, v.RemoveDisk("web", id))
	if got := begins(t, v, ref, id); got != "first" || len(disksOf(v)) != 1 {
		t.Errorf("the snapshot of the removed disk begins with %q; disks %v", got, disksOf(v))
	}
	if err := v.GuestWrite("web", id, 0, []byte("x")); job.KindOf(err) != job.NotFound {
		t.Errorf("a removed disk is written: %v", err)
	}
	again, err := v.AddDisk("web", image(t, mib))
	must(t, err)
	if again != id || begins(t, v, ref, id) != "first" {
		t.Errorf("the next one is %s; the snapshot begins with %q", again, begins(t, v, ref, id))
	}
	must(t, v.GrowDisk("web", again, 2*mib+512)) // it was added after the snapshot
	p := make([]byte, 4)
	must(t, v.GuestRead("web", again, 2*mib+508, p))
	if !bytes.Equal(p, make([]byte, 4)) {
		t.Errorf("the new end reads %q", p)
	}
	must(t, v.GuestWrite("web", again, 2*mib, []byte("end")))
	for _, size := range []int64{mib, 2*mib + 512, 3*mib + 1} {
		if err := v.GrowDisk("web", again, size); job.KindOf(err) != job.Invalid {
			t.Errorf("it grows to %d: %v", size, err)
		}
	}
	must(t, v.ReplaceDisk("web", "disk-2000", image(t, 3*mib)))
	got, frozen := fmt.Sprint(disksOf(v)), begins(t, v, ref, "disk-2000")
	if !strings.Contains(got, "disk-2000 3145728") || frozen != "first" {
		t.Errorf("after the replacement: %s, the snapshot begins with %q", got, frozen)
	}
}

func TestARevertGivesTheBytesOfTheSnapshotAndItsChangeIDsAgain(t *testing.T) {
	opt := oneVM(t, mib)
	opt.CBT = true
	v := start(t, opt)
	if err := v.Revert("web"); job.KindOf(err) != job.NotFound {
		t.Errorf("without a snapshot: %v", err)
	}
	ref, err := v.TakeSnapshot("web", "one", "")
	must(t, err)
	must(t, v.GuestWrite("web", "disk-2000", 0, []byte("FIRST")))
	must(t, v.GuestWrite("web", "disk-2000", mib/2, []byte("more")))
	must(t, v.Revert("web"))
	live, frozen := begins(t, v, "", "disk-2000"), begins(t, v, ref, "disk-2000")
	if live != "first" || frozen != "first" {
		t.Errorf("live %q, frozen %q", live, frozen)
	}
	if n := v.State().VMs[0].Disks[0].OverlaySum; n != 0 {
		t.Errorf("%d bytes are in the overlay", n)
	}
	must(t, v.GuestWrite("web", "disk-2000", 0, []byte("after")))
	if begins(t, v, "", "disk-2000") != "after" || begins(t, v, ref, "disk-2000") != "first" {
		t.Error("a write after the revert is lost, or in the snapshot")
	}
	_, err = v.AddDisk("web", image(t, mib))
	must(t, err)
	if err := v.Revert("web"); job.KindOf(err) != job.Conflict {
		t.Errorf("with a disk that the snapshot has not: %v", err)
	}
}

func TestAVMIsChangedOverHTTP(t *testing.T) {
	opt := oneVM(t, mib)
	opt.InPlace = true
	v := start(t, opt)
	post := func(what, body string, want int) string {
		t.Helper()
		status, text := ask(t, v, http.MethodPost, "/rehearsal/"+what, body, v.User())
		if status != want {
			t.Errorf("%s %s: %d, want %d: %s", what, body, status, want, text)
		}
		return text
	}
	var added struct {
		Disk job.DiskID `json:"disk"`
	}
	must(t, json.Unmarshal([]byte(post("add-disk", `{"vm":"web","capacity":2097152,"seed":7}`, 200)), &added))
	one := begins(t, v, "", added.Disk)
	if added.Disk != "disk-2001" || one == "\x00\x00\x00\x00\x00" {
		t.Errorf("added %s, which begins with %q", added.Disk, one)
	}
	post("grow-disk", `{"vm":"web","disk":"disk-2001","capacity":4194304}`, 200)
	post("replace-disk", `{"vm":"web","disk":"disk-2001","capacity":1048576,"seed":8}`, 200)
	if begins(t, v, "", "disk-2001") == one {
		t.Error("the disk was not replaced")
	}
	text := post("snapshot", `{"vm":"web","name":"by hand","description":"x"}`, 200)
	if !strings.Contains(text, "snapshot-") {
		t.Errorf("the answer is %s", text)
	}
	post("grow-disk", `{"vm":"web","disk":"disk-2001","capacity":8388608}`, 409)
	post("revert", `{"vm":"web"}`, 200)
	post("remove-disk", `{"vm":"web","disk":"disk-2001"}`, 200)
	post("remove-disk", `{"vm":"web","disk":"disk-2001"}`, 404)
	post("add-disk", `{"vm":"web"}`, 400)
	post("add-disk", `{"vm":"web","capacity":1000}`, 400)
	post("add-disk", `{"vm":"web","image":"/nowhere.raw"}`, 400)
	post("add-disk", `{"vm":"db","capacity":512}`, 404)
	if n := len(v.State().VMs[0].Disks); n != 1 {
		t.Errorf("%d disks are left", n)
	}
}
