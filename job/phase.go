package job

import "slices"

// Phase is where a job is on its way.
type Phase string

// The phases, in the order of the way.
const (
	Queued         Phase = "queued"    // accepted and durable, waits for its turn
	Preflight      Phase = "preflight" // looks at the VM, its disks and the targets; changes nothing
	EnablingCBT    Phase = "cbt"       // makes sure that changed blocks are tracked
	Snapshot       Phase = "snapshot"  // takes one snapshot over all disks
	Connect        Phase = "connect"   // asks what must be read, prepares the targets
	Transfer       Phase = "transfer"  // copies
	Verify         Phase = "verify"    // reads back and compares
	Commit         Phase = "commit"    // records the checkpoint set, then lets the snapshot go
	Waiting        Phase = "waiting"   // in step; waits for the next round or the cut-over
	Cleanup        Phase = "cleanup"   // lets go of what the job still holds at the source
	Completed      Phase = "completed" // every byte is on the targets
	Failed         Phase = "failed"    // it could not; Failure says why and where
	PhaseCancelled Phase = "cancelled" // somebody asked to stop
)

// phases is the one table of the way: the phases that may follow, and what each means to the world.
var phases = map[Phase]struct { //nolint:gochecknoglobals // a constant table; Go has no constant maps
	status   Status
	after    []Phase // those that may come next, save Cleanup and the ends, which may follow always
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

// MayFollow says whether a job may go from one phase straight to the other.
func (p Phase) MayFollow(from Phase) bool {
	if slices.Contains(phases[from].after, p) {
		return true
	}
	return p == Cleanup && !phases[from].terminal
}

// Way lists the phases of one round in their order, for showing what is still to come.
func Way() []Phase {
	return []Phase{Queued, Preflight, EnablingCBT, Snapshot, Connect, Transfer, Verify, Commit, Waiting, Cleanup,
		Completed}
}

// Status is the state of a job in one word.
type Status string

// The statuses. Unreachable and lost are only known where a job is watched from another node.
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
