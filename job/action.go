package job

import "time"

// Action is what must be done next, as a plain value. Every action can be repeated: after a crash it is, and the
// second time must not do harm.
//
//sumtype:decl
type Action interface{ action() }

// The actions. Each is answered by the event that is named.
type (
	// Inspect looks at the VM, its disks and the targets, and changes nothing. Inspected or StepFailed.
	Inspect struct{}
	// EnableCBT makes sure that changed blocks are tracked. CBTReady or StepFailed.
	EnableCBT struct{}
	// TakeSnapshot takes one snapshot over all disks, or finds the one of that name. SnapshotTaken or StepFailed.
	TakeSnapshot struct {
		Name    string
		Quiesce bool
	}
	// PrepareTargets opens the targets, decides for each disk whether all of it moves or what changed, and makes the
	// targets that are missing. TargetsPrepared or StepFailed.
	PrepareTargets struct{}
	// PlanReads asks what each disk must move. Planned or StepFailed.
	PlanReads struct{}
	// MoveDisk starts an attempt. DiskMoved or AttemptFailed.
	MoveDisk struct {
		Disk    DiskID
		Attempt int
	}
	// VerifyDisk reads the target back. DiskVerified or AttemptFailed.
	VerifyDisk struct {
		Disk    DiskID
		Attempt int
	}
	// StopDisks asks all running attempts to flush, record and end. Each answers with AttemptFailed of kind Cancelled, or
	// with what it came to in the meantime.
	StopDisks struct{}
	// StopStep asks the step that runs to end. It answers as it would, or with StepFailed of kind Cancelled.
	StopStep struct{}
	// CommitSet makes the checkpoint set durable. SetCommitted or StepFailed.
	CommitSet struct{ Set CheckpointSet }
	// DropSnapshot removes the snapshot by Ref or, if that is not known, by our Name. SnapshotGone or StepFailed.
	DropSnapshot struct{ Ref, Name string }
	// PurgeTargets removes targets that the job made. TargetsPurged or StepFailed.
	PurgeTargets struct{ URIs []string }
	// WakeDisk sends DiskDue at that time.
	WakeDisk struct {
		Disk    DiskID
		Attempt int
		At      time.Time
	}
	// WakeStep sends StepDue at that time.
	WakeStep struct {
		Phase   Phase
		Attempt int
		At      time.Time
	}
	// SetLimits changes the limits of the running attempts.
	SetLimits struct {
		Bandwidth int64
		Disks     int
	}
)

func (Inspect) action()        {}
func (EnableCBT) action()      {}
func (TakeSnapshot) action()   {}
func (PrepareTargets) action() {}
func (PlanReads) action()      {}
func (MoveDisk) action()       {}
func (VerifyDisk) action()     {}
func (StopDisks) action()      {}
func (StopStep) action()       {}
func (CommitSet) action()      {}
func (DropSnapshot) action()   {}
func (WakeDisk) action()       {}
func (WakeStep) action()       {}
func (PurgeTargets) action()   {}
func (SetLimits) action()      {}
