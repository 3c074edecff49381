package actors

import (
	"context"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// VCenter is what a job needs of the source side. Every method may be called again with the same arguments after a
// crash, from many goroutines, blocks until done or until ctx ends, and fails with a job.Error.
type VCenter interface {
	// Inspect finds a VM by path, UUID, moref or unique name.
	Inspect(ctx context.Context, vm string) (job.VM, error)
	// EnsureCBT switches change tracking on where it is off; enabled says that it was.
	EnsureCBT(ctx context.Context, vm job.VM) (enabled bool, err error)
	// Snapshot takes one snapshot over all disks, or finds ours of exactly that name.
	Snapshot(ctx context.Context, vm job.VM, name string, quiesce bool) (job.VMSnapshot, error)
	// OurSnapshots lists those that carry our mark, on all VMs.
	OurSnapshots(ctx context.Context) ([]job.FoundSnapshot, error)
	// RemoveSnapshot removes ours, by reference or, if that is empty, by name. Gone already is no error.
	RemoveSnapshot(ctx context.Context, vm job.VM, ref, name string) error
}

// Targets is what a job needs of its target volumes. Every method may be called again with the same arguments after a
// crash, from many goroutines, blocks until done or until ctx ends, and fails with a job.Error.
type Targets interface {
	// Check looks, by its name, whether a target can take a disk of capacity bytes, and changes nothing.
	Check(ctx context.Context, target string, capacity int64) (job.TargetInfo, error)
	// Open opens the target of a disk and holds it until Release. If nothing is there it is made where create says so;
	// else the answer says that nothing exists.
	Open(ctx context.Context, ref job.VolumeRef, create bool) (job.TargetInfo, error)
	// Confirm looks, when all is written, whether the target's name still leads to what was written. It fails with
	// Conflict if not.
	Confirm(ctx context.Context, ref job.VolumeRef) (job.TargetInfo, error)
	// Release closes the targets of a job. It does not wait for the kernel.
	Release(id job.ID)
	// Purge removes a target that a job made: a regular file, and nothing else. Gone already is no error.
	Purge(ctx context.Context, target string) error
}

// Transfers copies and verifies disks. Its methods may be called from many goroutines, and fail with a job.Error.
type Transfers interface {
	// Ready says whether disks can be read at all by this node.
	Ready() error
	// Areas says what a disk must move; known is false if that can't be told. It fails with CBTInvalid if the change ID
	// of an incremental round is no longer good.
	Areas(ctx context.Context, t job.TransferTask) (areas job.Extents, known bool, err error)
	// Run makes one attempt: it copies or verifies until everything is done and flushed, or until ctx ends. What is
	// durable then is recorded, and the next Run of that disk and round goes on from it. It returns how far it came in
	// both cases. show is called with what can be seen of the attempt, again at each of its steps.
	Run(ctx context.Context, t job.TransferTask, show func(job.TransferView)) (job.Counters, error)
	// Discard drops what Run recorded for going on.
	Discard(ctx context.Context, id job.ID) error
	Permits
}

// Permits are the limits that transfers keep to.
type Permits interface {
	// Limits are those in force, and what is in use.
	Limits() (job.Limits, []job.HostUse)
	SetLimits(l job.Limits)
	// LimitJob changes the limits of one job.
	LimitJob(id job.ID, l job.TransferLimits)
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
