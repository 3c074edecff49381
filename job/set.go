package job

import "time"

// CheckpointSet says for all disks of a VM up to which change ID their targets are equal to them. It is committed as a
// whole: after every disk is flushed and verified, and before the snapshot is removed. The next round starts from it.
type CheckpointSet struct {
	VMUUID     string `json:"vm_uuid"`
	Generation int64  `json:"generation"` // grows with each commit for this VM
	Job        ID     `json:"job"`
	// the job's mark: another job of the same id has another one; "" in sets of versions that had none
	Mark      string           `json:"mark,omitempty"`
	Round     int              `json:"round"`
	Snapshot  string           `json:"snapshot"` // moref of the snapshot that was copied
	Committed time.Time        `json:"committed"`
	Disks     []DiskCheckpoint `json:"disks"`
}

// DiskCheckpoint is one disk of a set.
type DiskCheckpoint struct {
	Disk           DiskID `json:"disk"`
	BackingID      string `json:"backing_id"`
	Capacity       int64  `json:"capacity"`
	ChangeID       string `json:"change_id"` // "" if tracking was not active: the next round goes full
	Target         string `json:"target"`    // URI as it was asked for
	TargetIdentity string `json:"target_identity"`
	// the target's stamp when the set was committed; "" if the target has none
	TargetStamp string `json:"target_stamp,omitempty"`
	// id of the target's row in the ledger; "" in sets of versions that had none
	Volume string `json:"volume,omitempty"`
	// of a partial set: who has to be the last that wrote to the target; zero in committed sets, and in partial ones of
	// versions that had none
	Writers Writers `json:"writers,omitzero"`
}

// Writers are two rounds, by the change IDs of their snapshots, of which one has to be the last that wrote to a target:
// if another did, nothing is known of the target.
type Writers struct {
	Round  string `json:"round"`
	Before string `json:"before,omitempty"` // the last one before Round, if Round may have written nothing; else ""
}

// Has says whether it is one of them. "" is none.
func (w Writers) Has(changeID string) bool {
	return changeID != "" && (changeID == w.Round || changeID == w.Before)
}

// Disk finds a disk of the set; false if it has none of that id.
func (s *CheckpointSet) Disk(id DiskID) (DiskCheckpoint, bool) {
	if s == nil {
		return DiskCheckpoint{}, false
	}
	for _, d := range s.Disks {
		if d.Disk == id {
			return d, true
		}
	}
	return DiskCheckpoint{}, false
}
