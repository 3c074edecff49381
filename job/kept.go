package job

import (
	"cmp"
	"fmt"
	"slices"
)

// KeptCopy says where to find what a round that was not committed made durable of a disk. The bytes are those of the
// disk at ChangeID. Which bytes, is in the record that the attempts of that round left.
//
// It is no checkpoint of a set: the rest of the disk is not on the target. So it has a place of its own in the state,
// and a version that does not know it copies the disk in full.
type KeptCopy struct {
	Disk           DiskID  `json:"disk"`
	Round          int     `json:"round"` // whose record it is
	BackingID      string  `json:"backing_id"`
	Capacity       int64   `json:"capacity"`
	ChangeID       string  `json:"change_id"` // of that round's snapshot; never ""
	Snapshot       string  `json:"snapshot"`  // moref of it
	Mode           Mode    `json:"mode"`
	Target         string  `json:"target"`
	TargetIdentity string  `json:"target_identity"`
	Volume         string  `json:"volume"`            // id of the target's row in the ledger; never ""
	Durable        int64   `json:"durable,omitempty"` // bytes, as far as it is known; 0 if nothing is known to be there
	Writers        Writers `json:"writers"`
}

// KeptPart is what a round did not copy because an earlier round of the job had made it durable.
type KeptPart struct {
	Round       int   `json:"round"` // that made it durable, or took it over itself
	Transferred int64 `json:"transferred"`
	Skipped     int64 `json:"skipped"`
}

// Sum is the number of bytes that count as done when the round begins.
func (k *KeptPart) Sum() int64 {
	if k == nil {
		return 0
	}
	return k.Transferred + k.Skipped
}

// KeptCopy finds what is kept of a disk; false for nothing.
func (s State) KeptCopy(id DiskID) (KeptCopy, bool) {
	i := slices.IndexFunc(s.Kept, func(k KeptCopy) bool { return k.Disk == id })
	if i < 0 {
		return KeptCopy{}, false
	}
	return s.Kept[i], true
}

// Holds says whether what is kept of a disk still is what it was; if not, why not is "" if nothing is lost by that.
// disk is as the new snapshot froze it, target names its target, and now says how that was found under the lock. It
// asks for all that an incremental round from there would ask for, and that no round of another job wrote since.
func (k KeptCopy) Holds(disk Disk, target string, now TargetInfo) (holds bool, why string) {
	base := CheckpointSet{Disks: []DiskCheckpoint{{
		Disk: k.Disk, BackingID: k.BackingID, Capacity: k.Capacity, ChangeID: k.ChangeID, Target: k.Target,
		TargetIdentity: k.TargetIdentity, Volume: k.Volume, Writers: k.Writers,
	}}}
	mode, why := ModeFor(Auto, disk, target, now, &base)
	switch {
	case mode != Incremental:
	case k.Volume == "" || !k.Writers.Has(now.ChangeID):
		why = "who wrote to the target last is not known"
	default:
		return true, ""
	}
	if k.Durable == 0 {
		why = ""
	}
	return false, why
}

// Identified is the part of a task that names what the record of a kept copy belongs to. t is the task of the round
// that goes on from it.
func (k KeptCopy) Identified(t TransferTask) TransferTask {
	t.Round, t.Snapshot.Ref = k.Round, k.Snapshot
	t.Disk.Mode, t.Disk.TargetIdentity = k.Mode, k.TargetIdentity
	t.Disk.Disk.BackingID, t.Disk.Disk.ChangeID, t.Disk.Disk.Capacity = k.BackingID, k.ChangeID, k.Capacity
	return t
}

// keptNote says that a disk goes on from what is kept of it.
func (m *machine) keptNote(p DiskPlan) string {
	return fmt.Sprintf("round %d: %s goes on: %s of %s are kept from round %d, which was not committed", m.Round(),
		p.Disk.ID, FormatSize(p.Kept.Sum()), FormatSize(p.ToTransfer), p.Kept.Round)
}

// keep is what a round that will not be committed leaves of the disks that the partial set does not name with its
// change ID. Before its plan nothing of the round has been written, and what an earlier round left stays.
func (m *machine) keep() []KeptCopy {
	if m.Phase != Transfer && m.Phase != Verify && m.Phase != Commit {
		return m.Kept
	}
	var out []KeptCopy
	for _, d := range m.Disks {
		wrong := d.Phase == DiskFailed && d.LastCause != nil && d.LastCause.Phase == Verify &&
			d.LastCause.Kind == Corrupt // the target was read back, and has other bytes
		if !d.Keep || wrong || d.Copied() && m.leavesPartial() {
			continue
		}
		k := KeptCopy{
			Disk: d.Disk.ID, Round: m.Round(), BackingID: d.Disk.BackingID, Capacity: d.Disk.Capacity,
			ChangeID: d.Disk.ChangeID, Snapshot: m.HeldSnapshot.Ref, Mode: d.Mode, Target: d.Target,
			TargetIdentity: d.TargetIdentity, Volume: d.Volume, Durable: max(d.Counters.Durable, d.Kept.Sum()),
			Writers: Writers{d.Disk.ChangeID, d.Writer},
		}
		out = append(out, k)
	}
	return out
}

// takeKept begins the sums of a round with what is kept of a disk: it counts as done, and as not sent by this round.
func (d *DiskState) takeKept(p DiskPlan) {
	d.Writer, d.Keep, d.Kept = p.Writer, p.Keep, p.Kept
	if k := cmp.Or(p.Kept, &KeptPart{}); d.Attempt == 0 {
		d.Sent, d.High, d.HighSkipped = k.Transferred, k.Transferred, k.Skipped
	}
}
