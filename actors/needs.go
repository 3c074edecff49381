package actors

import (
	"context"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// VCenter is what a job needs of the source side. Every method may be called again with the same arguments after a
// crash, from many goroutines, blocks until done or until ctx ends, and fails with a job.Error.
type VCenter interface { //nolint:interfacebloat // one vCenter is one thing to a job
	// Inspect finds a VM by path, UUID, moref or unique name.
	Inspect(ctx context.Context, vm string) (job.VM, error)
	// EnsureCBT switches change tracking on where it is off; enabled says that it was.
	EnsureCBT(ctx context.Context, vm job.VM) (enabled bool, err error)
	// Snapshot takes one snapshot over all disks, or finds ours of exactly that name.
	Snapshot(ctx context.Context, vm job.VM, name string, quiesce bool) (job.VMSnapshot, error)
	// ChangedAreas lists what changed on a disk since a change ID, or what is allocated for "*".
	ChangedAreas(ctx context.Context, vm job.VM, snap job.VMSnapshot, disk job.DiskID, since string) (job.Extents,
		error)
	// Export says where a frozen disk can be read.
	Export(ctx context.Context, vm job.VM, snap job.VMSnapshot, disk job.DiskID) (job.Export, error)
	// OurSnapshots lists those that carry our mark, on all VMs.
	OurSnapshots(ctx context.Context) ([]job.FoundSnapshot, error)
	// RemoveSnapshot removes ours, by reference or, if that is empty, by name. Gone already is no error.
	RemoveSnapshot(ctx context.Context, vm job.VM, ref, name string) error
}

// Mover carries bytes. Its methods may be called from many goroutines, and fail with a job.Error.
type Mover interface {
	// Check looks whether a target can take a disk of that many bytes, and changes nothing.
	Check(ctx context.Context, target string, capacity int64) (TargetFact, error)
	// Prepare makes the target if it is a file that does not exist.
	Prepare(ctx context.Context, target string, capacity int64) (TargetFact, error)
	// Move copies until everything is on the target and flushed, or until ctx ends: then what is there is recorded, and
	// the next Move with the same Key goes on from it. It returns how far it came in both cases.
	Move(ctx context.Context, t MoveTask, live *Live) (job.Counters, error)
	// Verify reads back what Move brought and compares it with the source.
	Verify(ctx context.Context, t MoveTask, mode job.VerifyMode, live *Live) (job.Counters, error)
	// Purge removes a target that a job made: a regular file, and nothing else. Gone already is no error.
	Purge(ctx context.Context, target string) error
	// Discard drops what Move recorded for going on.
	Discard(ctx context.Context, id job.ID) error
}

// TargetFact is a target as it is now.
type TargetFact struct {
	Exists   bool
	Identity string // differs if it is not the same volume any more; "" if it does not exist
	Place    string // where it is or would be: two names of one target have one place
	Stamp    string // differs if somebody has written to it since; "" if nobody can tell
	Zero     bool   // made just now, or known to be all zero
}

// MoveTask is one attempt at one disk.
type MoveTask struct {
	Job        job.ID
	Round      int
	VM         job.VM
	Snapshot   job.VMSnapshot
	Disk       job.DiskState
	Areas      job.Extents // what changed, or in a full round what is allocated
	AreasKnown bool        // Areas is valid, even if it is empty; false in a full round if nobody can say
	// Share is what it has in common with other disks, of its job and of others.
	Share
	// Unverified says that an incremental round starts from what nobody has read back yet.
	Unverified bool
}

// Journal is the truth. Every method returns after what it says is durable, and fails with a job.Error.
type Journal interface {
	// Create accepts a job. The same idempotency key and body give the earlier job's id, and existing.
	Create(ctx context.Context, st job.State, event []byte, key, bodyHash string) (id job.ID, existing bool, err error)
	// Save appends an event and replaces the state, if st.Seq is the stored one's successor.
	Save(ctx context.Context, st job.State, event []byte) error
	// Jobs returns all jobs, oldest first.
	Jobs(ctx context.Context) ([]job.State, error)
	// Delete forgets a job that has ended.
	Delete(ctx context.Context, id job.ID) error
}

// Sets keeps the newest checkpoint set of each VM.
type Sets interface {
	Commit(ctx context.Context, set job.CheckpointSet) error
	Set(ctx context.Context, vmUUID string) (*job.CheckpointSet, error)
	DropSet(ctx context.Context, vmUUID string) error
}

// Sink takes reports: a projection of the truth. Publish gets the newest report of each job that changed, may block,
// may fail, and may be called again with the same reports; it is never called twice at once.
type Sink interface {
	Name() string
	Publish(ctx context.Context, reports []report.Report) error
}
