package vsphere_test

import (
	"fmt"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere/sim"
)

func TestASnapshotShowsDisksThatWereAddedRemovedReplacedOrGrown(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c, vm := tracked(t, v)
	list := func(round int) (out []string) {
		s := snapshot(t, c, vm, fmt.Sprintf("vmferry-job-%d", round))
		for _, d := range s.Disks {
			out = append(out, fmt.Sprintf("%s %d %s", d.ID, d.Capacity, d.BackingID))
			if d.ChangeID == "" || d.Unfit != "" {
				t.Errorf("round %d: %+v", round, d)
			}
		}
		must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
		return out
	}
	first := list(1)
	id, err := v.AddDisk("web", image(t, mib, 0))
	must(t, err)
	second := list(2)
	if len(second) != 3 || second[0] != first[0] || second[1] != first[1] {
		t.Errorf("%s was added; the disks are %v after %v", id, second, first)
	}
	must(t, v.RemoveDisk("web", "disk-2001"))
	must(t, v.GrowDisk("web", id, 2*mib))
	third := list(3)
	if len(third) != 2 || third[0] != second[0] || third[1] == second[2] {
		t.Errorf("one is gone and one has grown; the disks are %v after %v", third, second)
	}
	must(t, v.ReplaceDisk("web", "disk-2000", image(t, 24*mib, mib)))
	if fourth := list(4); len(fourth) != 2 || fourth[0] == third[0] || fourth[1] != third[1] {
		t.Errorf("one is another; the disks are %v after %v", fourth, third)
	}
}

func TestAnAddedAndAGrownDiskAreCopiedExactly(t *testing.T) {
	v := vcenter(t, sim.Options{VMs: []sim.VM{{Name: "web", Disks: []string{image(t, 8*mib, 0, 3*mib)}}}})
	c, vm := tracked(t, v)
	r := &round{v: v, c: c, vm: vm, dir: t.TempDir(), since: map[job.DiskID]string{}}
	r.run(t)
	_, err := v.AddDisk("web", image(t, 6*mib+512, 0, 6*mib))
	must(t, err)
	r.run(t)
	r.run(t)
	must(t, v.GrowDisk("web", "disk-2001", 9*mib))
	delete(r.since, "disk-2001")
	r.run(t)
	if bytes := r.run(t); bytes > 3*mib {
		t.Errorf("the last round moved %d bytes", bytes)
	}
}

// A revert brings back change IDs that name other bytes now: what they say has changed is not all that differs.
func TestChangeIDsThatAreNotNewerThanTheLastOnesMakeADiskGoFull(t *testing.T) {
	for _, rounds := range []int{1, 2} {
		m := web(t)
		m.Snapshots = []string{"before the update"}
		v := vcenter(t, sim.Options{VMs: []sim.VM{m}, CBT: true})
		c := connect(t, config(t, v))
		vm := inspect(t, c, "web")
		base, digests := &job.CheckpointSet{}, map[job.DiskID]string{}
		for n := range rounds {
			must(t, v.GuestScribble("web", "disk-2000", int64(n)*mib, 200*kib, uint64(n)))
			must(t, v.GuestScribble("web", "disk-2001", int64(n)*mib, 200*kib, uint64(n)))
			s := snapshot(t, c, vm, fmt.Sprintf("vmferry-job-%d", n))
			base.Disks = nil
			for _, d := range s.Disks {
				base.Disks = append(base.Disks, job.DiskCheckpoint{
					Disk: d.ID, ChangeID: d.ChangeID, Target: "/t", Volume: "v", Capacity: d.Capacity,
				})
				digests[d.ID] = imageDigest(t, v, s.Ref, d.ID)
			}
			must(t, c.RemoveSnapshot(t.Context(), vm, held(s)))
		}
		must(t, v.Revert("web"))
		s := snapshot(t, c, vm, "vmferry-job-9")
		for i, d := range s.Disks {
			since := base.Disks[i].ChangeID
			there := job.TargetInfo{Exists: true, Volume: "v"}
			if mode, reason := job.ModeFor(job.Auto, d, "/t", there, base); mode != job.Full || reason == "" {
				t.Errorf("after %d rounds %s goes %s from %s to %s: %s", rounds, d.ID, mode, since, d.ChangeID, reason)
			}
			areas, err := c.ChangedAreas(t.Context(), vm, s, d.ID, since)
			if rounds == 1 && (err != nil || len(areas) > 0 || imageDigest(t, v, s.Ref, d.ID) == digests[d.ID]) {
				t.Errorf("%s: the vCenter reports %v, %v", d.ID, areas, err)
			}
		}
	}
}
