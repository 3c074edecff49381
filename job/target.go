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
	Identity string // differs if it is not the same volume any more; "" if it does not exist
	Place    string // where it is or would be: two names of one target have one place
	Stamp    string // differs after another process has written to it; "" if that cannot be told
	Zero     bool   // known to be all zero
}
