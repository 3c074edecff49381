package job

// VolumeRef names the target of one disk of a job.
type VolumeRef struct {
	Job      ID
	Disk     DiskID
	Target   string // as in Target.URI
	Capacity int64  // of the disk, bytes
}

// TargetInfo is a target as it is now.
type TargetInfo struct {
	Exists   bool
	Identity string // of the volume: another volume of the same name has another one; "" if it does not exist
	Place    string // where the target is or will be: two names of one target have the same place
	Stamp    string // changes when a process writes to the target; "" if the target has none
	Zero     bool   // the target is known to be all zero
}
