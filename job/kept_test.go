package job_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
)

const (
	keptDay = `
		submit vm=web verify=full
		admit
		inspected disks=2000,2001
		cbt
		snapshot ref=snapshot-1 disks=2000,2001 change=52/1
		planned disks=2000,2001 change=52/1 mode=full to_transfer=1GiB keep=yes`
	keptOne = keptDay + `
		moved disk=disk-2001 attempt=1 transferred=1GiB
		failed disk=disk-2000 attempt=1 transferred=310MiB durable=300MiB kind=permission
		gone`
)

// keeps are the disks of which something is kept, each with the round.
func (c *conversation) keeps() map[job.DiskID]int {
	out := map[job.DiskID]int{}
	for _, k := range c.state.Kept {
		out[k.Disk] = k.Round
	}
	return out
}

func TestWhatARoundLeavesOfADiskIsKept(t *testing.T) {
	for name, tc := range map[string]struct {
		lines string
		want  map[job.DiskID]int
	}{
		"a disk that failed": {keptOne, map[job.DiskID]int{"disk-2000": 1}},
		"disks that were cancelled": {keptDay + `
			command cancel
			failed disk=disk-2000 attempt=1 durable=1MiB kind=cancelled
			failed disk=disk-2001 attempt=1 kind=cancelled`, map[job.DiskID]int{"disk-2000": 1, "disk-2001": 1}},
		"a disk that was cancelled while the daemon was down": {keptDay + `
			command cancel
			restarted`, map[job.DiskID]int{"disk-2000": 1, "disk-2001": 1}},
		"a verification that could not be done": {keptDay + `
			moved disk=disk-2000 attempt=1 transferred=1GiB
			moved disk=disk-2001 attempt=1 transferred=1GiB
			verified disk=disk-2001 attempt=1
			failed disk=disk-2000 attempt=1 kind=permission`, map[job.DiskID]int{"disk-2000": 1}},
		"a target with other bytes": {keptDay + `
			moved disk=disk-2000 attempt=1 transferred=1GiB
			moved disk=disk-2001 attempt=1 transferred=1GiB
			verified disk=disk-2001 attempt=1
			failed disk=disk-2000 attempt=1 kind=corrupt`, map[job.DiskID]int{}},
		"a round of an earlier version": {strings.ReplaceAll(keptOne, "keep=yes", ""), map[job.DiskID]int{}},
		"a retry that failed before its plan": {keptOne + `
			command retry
			admit
			inspected disks=2000,2001
			cbt
			snapshot ref=snapshot-2 disks=2000,2001 change=52/2
			step_failed phase=connect kind=permission
			gone`, map[job.DiskID]int{"disk-2000": 1}},
		"a retry that was cancelled before its snapshot": {keptOne + `
			command retry
			command cancel`, map[job.DiskID]int{"disk-2000": 1}},
		"a retry that has been planned": {keptOne + `
			command retry
			admit
			inspected disks=2000,2001
			cbt
			snapshot ref=snapshot-2 disks=2000,2001 change=52/2
			planned disks=2000,2001 change=52/2 mode=full to_transfer=1GiB keep=yes`, map[job.DiskID]int{}},
		"a retry that was cancelled while its reads were planned": {
			keptOne + `
			command retry
			admit
			inspected disks=2000,2001
			cbt
			snapshot ref=snapshot-2 disks=2000,2001 change=52/2
			command cancel
			planned disks=2000,2001 change=52/2 mode=full to_transfer=1GiB keep=yes`,
			map[job.DiskID]int{"disk-2000": 1},
		},
		"a fresh retry": {keptOne + `
			command retry fresh=yes`, map[job.DiskID]int{}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newConversation(t)
			c.plays(tc.lines)
			if d := cmp.Diff(tc.want, c.keeps()); d != "" {
				t.Errorf("what is kept (-want +got):\n%s", d)
			}
		})
	}
}

// TestARoundOfChangesKeepsDisksThatItCopied, too: the committed set from before it names none of their new bytes.
func TestARoundOfChangesKeepsDisksThatItCopied(t *testing.T) {
	c := newConversation(t)
	c.committedBefore()
	c.plays(`
		cbt
		snapshot ref=snapshot-2 disks=2000,2001 change=52/2
		planned disks=2000,2001 change=52/2 mode=incremental to_transfer=1MiB keep=yes writer=52/1
		moved disk=disk-2000 attempt=1 transferred=1MiB
		failed disk=disk-2001 attempt=1 kind=permission
		gone`)
	if d := cmp.Diff(map[job.DiskID]int{"disk-2000": 1, "disk-2001": 1}, c.keeps()); d != "" || c.state.Partial != nil {
		t.Errorf("what is kept (-want +got):\n%s\npartial set %+v", d, c.state.Partial)
	}
}

func TestWhatIsKeptHoldsOnlyForTheSameBytes(t *testing.T) {
	kept := job.KeptCopy{
		Disk: "disk-2000", Round: 1, BackingID: "a", Capacity: 1 << 30, ChangeID: "52/2", Snapshot: "snapshot-1",
		Mode: job.Full, Target: "/t", TargetIdentity: "i", Volume: "v", Durable: 1,
		Writers: job.Writers{Round: "52/2", Before: "52/1"},
	}
	disk := job.Disk{ID: "disk-2000", BackingID: "a", Capacity: 1 << 30, ChangeID: "52/9"}
	now := job.TargetInfo{Exists: true, Volume: "v", ChangeID: "52/2"}
	type found struct {
		kept job.KeptCopy
		disk job.Disk
		now  job.TargetInfo
	}
	for name, tc := range map[string]struct {
		change func(w *found)
		why    string // "" if it holds
	}{
		"as it was":                       {func(*found) {}, ""},
		"a round that wrote nothing":      {func(w *found) { w.now.ChangeID = "52/1" }, ""},
		"another writer":                  {func(w *found) { w.now.ChangeID = "52/5" }, "another round"},
		"a writer that is not known":      {func(w *found) { w.now.ChangeID = "" }, "who wrote"},
		"no writers":                      {func(w *found) { w.kept.Writers = job.Writers{} }, "who wrote"},
		"no row":                          {func(w *found) { w.kept.Volume = "" }, "who wrote"},
		"another volume":                  {func(w *found) { w.now.Volume = "w" }, "another target"},
		"no target":                       {func(w *found) { w.now.Exists = false }, "does not exist"},
		"a foreign write":                 {func(w *found) { w.now.Foreign = "dd" }, "dd"},
		"another size":                    {func(w *found) { w.disk.Capacity++ }, "its size changed"},
		"another backing":                 {func(w *found) { w.disk.BackingID = "b" }, "another disk"},
		"tracking that was reset":         {func(w *found) { w.disk.ChangeID = "53/9" }, "was reset"},
		"tracking that is off":            {func(w *found) { w.disk.ChangeID = "" }, "not tracked"},
		"a revert to before the snapshot": {func(w *found) { w.disk.ChangeID = "52/2" }, "went back"},
	} {
		t.Run(name, func(t *testing.T) {
			w := found{kept, disk, now}
			tc.change(&w)
			holds, why := w.kept.Holds(w.disk, "/t", w.now)
			if holds != (tc.why == "") || !strings.Contains(why, tc.why) || holds && why != "" {
				t.Errorf("holds: %v, %q", holds, why)
			}
			w.kept.Durable = 0
			if holds2, why := w.kept.Holds(w.disk, "/t", w.now); holds2 != holds || why != "" {
				t.Errorf("with nothing durable it holds: %v, %q", holds2, why)
			}
		})
	}
}

// TestAPartialSetHoldsOnlyIfNoOtherRoundWroteSince: a full copy of another job that was cut off may have left zeros
// where its data was to follow.
func TestAPartialSetHoldsOnlyIfNoOtherRoundWroteSince(t *testing.T) {
	c := newConversation(t)
	c.plays(keptOne)
	disk := job.Disk{ID: "disk-2001", BackingID: "backing-2001", Capacity: 1 << 30, ChangeID: "52/9"}
	was, ok := c.state.Partial.Disk(disk.ID)
	if !ok {
		t.Fatal("the disk that was copied is not in the partial set")
	}
	for writer, want := range map[string]job.Mode{"52/1": job.Incremental, "52/5": job.Full, "": job.Incremental} {
		now := job.TargetInfo{Exists: true, Volume: was.Volume, ChangeID: writer}
		if mode, why := job.ModeFor(job.Auto, disk, was.Target, now, c.state.Partial); mode != want {
			t.Errorf("after a round at %q it goes %s: %s", writer, mode, why)
		}
	}
}
