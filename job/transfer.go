package job

import "time"

// TransferTask is one attempt at one disk: to copy it, or to read its target back.
type TransferTask struct {
	Job      ID
	Round    int
	VM       VM
	Snapshot VMSnapshot
	Disk     DiskState
	Since    string     // change ID that an incremental round starts from; "" for a full one
	Verify   VerifyMode // "" copies; sample or full reads back
	// Unverified says that an incremental round starts from a partial set, of which no target was read back.
	Unverified bool
	Limits     TransferLimits
}

// TransferLimits are the job's own limits.
type TransferLimits struct {
	Bandwidth int64 // bytes per second over all disks of the job; 0 for no limit
	Disks     int   // copied at the same time; 0 for no limit
}

// Volume names the target of the task.
func (t TransferTask) Volume() VolumeRef {
	d := t.Disk
	return VolumeRef{
		Job: t.Job, Disk: d.Disk.ID, Target: d.Target, Capacity: d.Disk.Capacity, ChangeID: d.Disk.ChangeID,
	}
}

// TransferView shows a transfer while it runs. Its functions are cheap and may be called from any goroutine, at any
// time.
type TransferView struct {
	Counters func() Counters
	// Silence is for how long each side has given no sign of life although a request to it is under way; 0 if none is.
	// It is nil before the transfer has begun.
	Silence   func() (source, target time.Duration)
	Transport string
	SourcePID int // of the nbdkit that reads the disk; 0 for none
	// WaitsFor names the limit that the transfer waits for; it gives "" when the wait is over. It is nil once the
	// transfer has begun.
	WaitsFor func() string
}
