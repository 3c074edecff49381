package job

import "slices"

// Phase is what a job does now.
type Phase string

// The phases, in their order.
const (
	Queued         Phase = "queued"    // accepted and durable; waits until the node runs fewer jobs than its limit
	Preflight      Phase = "preflight" // looks at the VM, its disks and the targets; changes nothing
	EnablingCBT    Phase = "cbt"       // makes sure that changed blocks are tracked
	Snapshot       Phase = "snapshot"  // takes one snapshot over all disks
	Connect        Phase = "connect"   // prepares the targets, then asks the source what must be read
	Transfer       Phase = "transfer"  // copies
	Verify         Phase = "verify"    // reads the targets back and compares
	Commit         Phase = "commit"    // records the checkpoint set, then removes the snapshot if rounds follow
	Waiting        Phase = "waiting"   // the targets equal the last snapshot; waits for sync, cutover or cancel
	Cleanup        Phase = "cleanup"   // removes the snapshot, and after a cancel with purge the targets of the job
	Completed      Phase = "completed" // every byte is on the targets
	Failed         Phase = "failed"    // State.Failure says why and where
	PhaseCancelled Phase = "cancelled" // a caller cancelled it
)

// phases says for each phase its status and which phases may follow.
var phases = map[Phase]struct { //nolint:gochecknoglobals // a constant table; Go has no constant maps
	status   Status
	after    []Phase // the phases that may follow; Cleanup, which may follow each that is not terminal, is left out
	terminal bool
}{
	Queued:         {status: Pending, after: []Phase{Preflight}},
	Preflight:      {status: Running, after: []Phase{EnablingCBT}},
	EnablingCBT:    {status: Running, after: []Phase{Snapshot}},
	Snapshot:       {status: Running, after: []Phase{Connect}},
	Connect:        {status: Running, after: []Phase{Transfer}},
	Transfer:       {status: Running, after: []Phase{Verify}},
	Verify:         {status: Running, after: []Phase{Commit}},
	Commit:         {status: Running, after: []Phase{Waiting}},
	Waiting:        {status: WaitingCutover, after: []Phase{Snapshot}},
	Cleanup:        {status: Running, after: []Phase{Completed, Failed, PhaseCancelled}},
	Completed:      {status: StatusCompleted, terminal: true},
	Failed:         {status: StatusFailed, terminal: true, after: []Phase{Queued}},
	PhaseCancelled: {status: StatusCancelled, terminal: true, after: []Phase{Queued}},
}

// Terminal says whether the job has ended.
func (p Phase) Terminal() bool { return phases[p].terminal }

// MayFollow says whether p may be the next phase of a job after from.
func (p Phase) MayFollow(from Phase) bool {
	if slices.Contains(phases[from].after, p) {
		return true
	}
	return p == Cleanup && !phases[from].terminal
}

// Way lists the phases of a job with one round in their order, for showing which phases are still to come.
func Way() []Phase {
	return []Phase{
		Queued, Preflight, EnablingCBT, Snapshot, Connect, Transfer, Verify, Commit, Waiting, Cleanup, Completed,
	}
}

// Status is the state of a job in one word.
type Status string

// The statuses. No State has the status unreachable or lost: they are for watching a job of another node.
const (
	Pending         Status = "pending"
	Running         Status = "running"
	Paused          Status = "paused"
	WaitingCutover  Status = "waiting_cutover"
	StatusCompleted Status = "completed"
	StatusFailed    Status = "failed"
	StatusCancelled Status = "cancelled"
	Unreachable     Status = "unreachable"
	Lost            Status = "lost"
)

// Terminal says whether the status is an end.
func (s Status) Terminal() bool {
	return s == StatusCompleted || s == StatusFailed || s == StatusCancelled
}

// Mode is how much of a disk a round moves.
type Mode string

// The modes. Auto is for a Spec only: incremental if a checkpoint set fits, full otherwise.
const (
	Auto        Mode = "auto"
	Full        Mode = "full"
	Incremental Mode = "incremental"
)
