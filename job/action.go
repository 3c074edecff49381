package job

import "time"

// Action is what the daemon must do next, as a plain value. Every action can be repeated: after a crash the daemon
// repeats it, and the second time does no harm.
//
//sumtype:decl
type Action interface{ action() }

// The actions. Each comment names the events that answer it.
type (
	// Inspect looks at the VM, its disks and the targets, and changes nothing. Inspected or StepFailed.
	Inspect struct{}
	// EnableCBT makes sure that changed blocks are tracked. CBTReady or StepFailed.
	EnableCBT struct{}
	// TakeSnapshot takes one snapshot over all disks, or finds the snapshot of that mark. SnapshotTaken or StepFailed.
	TakeSnapshot struct {
		Name    string
		Mark    string // "" only for a snapshot of a version that had none: then it is found by Name
		Quiesce bool
	}
	// PrepareTargets opens the targets, decides for each disk whether it moves in full or only what changed, and makes
	// the targets that are missing. TargetsPrepared or StepFailed.
	PrepareTargets struct{}
	// PlanReads asks the source how many bytes each disk must move. Planned or StepFailed.
	PlanReads struct{}
	// MoveDisk starts an attempt at a copy. DiskMoved or AttemptFailed.
	MoveDisk struct {
		Disk    DiskID
		Attempt int
	}
	// VerifyDisk reads the target back. DiskVerified or AttemptFailed.
	VerifyDisk struct {
		Disk    DiskID
		Attempt int
	}
	// StopDisks asks all running attempts to flush, record what is durable, and end. Each attempt answers with
	// AttemptFailed of kind Cancelled, or with its own result if that came first.
	StopDisks struct{}
	// StopStep asks the running step to end. The step answers with its own event, or with StepFailed of kind Cancelled.
	StopStep struct{}
	// CommitSet makes the checkpoint set durable. SetCommitted or StepFailed.
	CommitSet struct{ Set CheckpointSet }
	// DropSnapshot removes the snapshot by Ref or, if Ref is empty, by Mark, or by Name if Mark is empty, too.
	// SnapshotGone or StepFailed.
	DropSnapshot struct{ Ref, Name, Mark string }
	// PurgeTargets removes targets that the job made. TargetsPurged or StepFailed.
	PurgeTargets struct{ URIs []string }
	// WakeDisk sets a timer. DiskDue at the time At.
	WakeDisk struct {
		Disk    DiskID
		Attempt int
		At      time.Time
	}
	// WakeStep sets a timer. StepDue at the time At.
	WakeStep struct {
		Phase   Phase
		Attempt int
		At      time.Time
	}
	// SetLimits changes the limits of the running attempts. It has no answer.
	SetLimits struct {
		Bandwidth int64 // bytes per second over all disks of the job; 0 for no limit
		Disks     int   // copied at the same time; 0 for no limit
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
