package job

// TransferTask is one attempt at one disk: to copy it, or to read its target back.
type TransferTask struct {
	Job      ID
	Round    int
	VM       VM
	Snapshot VMSnapshot
	Disk     DiskState
	Since    string     // change ID of the last round, for an incremental one; else ""
	Verify   VerifyMode // "" copies; sample or full reads back
	// Unverified says that an incremental round starts from what was never read back.
	Unverified bool
	Limits     TransferLimits
}

// TransferLimits are the job's own limits.
type TransferLimits struct {
	Bandwidth int64 // bytes per second over all disks of the job; 0 for no limit
	Disks     int   // that are copied at the same time; 0 for no limit
}

// Volume names the target of the task.
func (t TransferTask) Volume() VolumeRef {
	return VolumeRef{Job: t.Job, Disk: t.Disk.Disk.ID, Target: t.Disk.Target, Capacity: t.Disk.Disk.Capacity}
}

// TransferView is what can be seen of a transfer while it runs. Its functions are cheap and may be called from any
// goroutine, at any time.
type TransferView struct {
	Counters  func() Counters
	Transport string
	SourcePID int // of the nbdkit that reads the disk; 0 for none
	// WaitsFor says what the transfer waits for by our own limits; "" if for nothing any more. Nil for one that has begun.
	WaitsFor func() string
}
