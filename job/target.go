package job

// VolumeRef names the target of one disk of a job. The job's row in the ledger knows it by job, disk and target.
type VolumeRef struct {
	Job      ID
	Disk     DiskID
	Target   string // as in Target.URI
	Capacity int64  // of the disk, bytes
	ChangeID string // of the snapshot that an attempt copies from; "" where nothing is written
}

// VolumeClaim asks for a target for one disk of a job.
type VolumeClaim struct {
	VolumeRef
	Owner VolumeOwner
	Adopt bool // take it over from another VM, or with data of others
}

// TargetInfo is a target as it is now.
type TargetInfo struct {
	Exists   bool
	Identity string // of the volume: another volume of the same name has another one; "" if it does not exist
	Stamp    string // changes when a process writes to the target; "" if the target has none
	Zero     bool   // the target is known to be all zero
	Volume   string // id of its row in the ledger; "" if it has none
	Stamped  bool   // it has a stamp, so a write of others shows; of the result of Prepare only
	ChangeID string // of the snapshot that our last writer wrote from; "" if that is not known
	Renewed  bool   // it was taken over from others on purpose, at some time
	// Foreign says why the target is not as our last writer left it; "" if it is, or if that can't be told.
	Foreign string
	Note    string // what a person should know of it; "" for nothing
	// OneNode says that another program serves the target. Writes that its server still holds can't be ended from here,
	// so no other node takes the target over. Of the result of Check only.
	OneNode bool
}
