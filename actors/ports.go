package actors

import (
	"context"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Remote joins the actor system with those of other nodes. Start is called once, before any actor is spawned: it gives
// the system the address that all PIDs get. Who made it also ends it, after the node has stopped.
type Remote interface {
	Start(ctx context.Context, system *actor.ActorSystem) error
}

// VCenter is what a job needs of the source side. Each method blocks until it is done or ctx ends, and fails with a
// job.Error. It may be called from many goroutines, and again with the same arguments after a crash.
type VCenter interface {
	// Inspect finds a VM by path, UUID, moref or unique name.
	Inspect(ctx context.Context, vm string) (job.VM, error)
	// EnsureCBT switches change tracking on if it is off. enabled says that it was off.
	EnsureCBT(ctx context.Context, vm job.VM) (enabled bool, err error)
	// Snapshot takes one snapshot over all disks, or finds the one of that mark that this node has taken.
	Snapshot(ctx context.Context, vm job.VM, want job.SnapshotRef, quiesce bool) (job.VMSnapshot, error)
	// CheckSnapshot fails with Conflict if the snapshot is not there any more.
	CheckSnapshot(ctx context.Context, vm job.VM, which job.SnapshotRef) error
	// OurSnapshots lists the snapshots that vmferry took, on any node, of all VMs.
	OurSnapshots(ctx context.Context) ([]job.FoundSnapshot, error)
	// RemoveSnapshot removes a snapshot, by reference or, if that is empty, by mark. It is no error if there is none.
	// It fails with Conflict if the reference leads to a snapshot that is not the one that was meant.
	RemoveSnapshot(ctx context.Context, vm job.VM, which job.SnapshotRef) error
}

// Targets is what a job needs of its target volumes. Each method blocks until it is done or ctx ends, and fails with a
// job.Error. It may be called from many goroutines, and again with the same arguments after a crash.
type Targets interface {
	Claims
	// Open opens the target of a disk and keeps it open until Release. It says whether a target exists, and whether it
	// is as our last writer left it.
	Open(ctx context.Context, ref job.VolumeRef) (job.TargetInfo, error)
	// Prepare makes the target if it is missing, and makes it ready for the first write of a round. It follows Open.
	Prepare(ctx context.Context, ref job.VolumeRef) (job.TargetInfo, error)
	// Confirm says, when all is written, whether the target's name still leads to what was written, and whether no
	// other has written to it. It fails with Conflict if not.
	Confirm(ctx context.Context, ref job.VolumeRef, identity string) (job.TargetInfo, error)
	// Release closes the targets of a job. It does not wait for the kernel, so an actor may call it.
	Release(id job.ID)
	// Purge removes the target of a disk if the job made it. It is no error if it did not, or if there is none.
	Purge(ctx context.Context, ref job.VolumeRef) error
}

// Claims is the part of Targets that knows whose a target is.
type Claims interface {
	// Known are the targets that the disks of a VM had last, by disk.
	Known(ctx context.Context, owner job.VolumeOwner) (map[job.DiskID]string, error)
	// Claim reserves the targets of a job, all or none, and says in the same order what they are. It changes no target.
	// It fails with Conflict for one that belongs to another VM or job. accept is called when the claims are durable,
	// before another job can claim; nil for nothing. If it fails, the claims are dropped.
	Claim(ctx context.Context, claims []job.VolumeClaim, accept func(context.Context) error) ([]job.TargetInfo, error)
}

// Transfers copies and verifies disks. Its methods may be called from many goroutines, and fail with a job.Error.
type Transfers interface {
	// Ready says whether this node can read disks at all.
	Ready() error
	// Areas says what a disk must move; known is false if the source can't say it. It fails with CBTInvalid if the
	// change ID of an incremental round is no longer good.
	Areas(ctx context.Context, t job.TransferTask) (areas job.Extents, known bool, err error)
	// Run makes one attempt: it copies or verifies until everything is done and flushed, or until ctx ends. It returns
	// how far it came in both cases. What is durable at its end is recorded, and the next Run of that disk and round
	// goes on from it. Run calls show with the view of the attempt, again at each of its steps.
	Run(ctx context.Context, t job.TransferTask, show func(job.TransferView)) (job.Counters, error)
	// Keep lets the first Run of a round begin with what an earlier round made durable of the disk. areas and known are
	// what Areas says of t. kept is nil if nothing can be kept; why says why not, "" if nothing is lost by that.
	Keep(ctx context.Context, t job.TransferTask, from job.KeptCopy, areas job.Extents, known bool) (
		kept *job.KeptPart, why string, err error)
	// Discard drops what the Runs of a job recorded.
	Discard(ctx context.Context, id job.ID) error
	Permits
}

// Permits are the limits that transfers keep to. Its methods do not block, and may be called from many goroutines.
type Permits interface {
	// Limits are the limits in force, and what is in use.
	Limits() (job.Limits, []job.HostUse)
	// SetLimits changes the limits of the node.
	SetLimits(l job.Limits)
	// LimitJob changes the limits of one job.
	LimitJob(id job.ID, l job.TransferLimits)
	// Forget drops the limits of a job that was deleted.
	Forget(id job.ID)
}

// Journal is where jobs are stored; it is the truth about them. Each method returns when its change is durable, and
// fails with a job.Error.
type Journal interface {
	// Create accepts a job. The same idempotency key and body give the earlier job's id, and existing.
	Create(ctx context.Context, st job.State, event []byte, key, bodyHash string) (id job.ID, existing bool, err error)
	// Lookup finds the job that an earlier request with that idempotency key and body made.
	Lookup(ctx context.Context, key, bodyHash string, now time.Time) (id job.ID, found bool, err error)
	// Save appends an event and replaces the state. st.Seq must be the stored one plus 1; else it fails with Conflict.
	// It also does if another unfinished job moves the same VM.
	Save(ctx context.Context, st job.State, event []byte) error
	// Jobs returns all jobs, oldest first.
	Jobs(ctx context.Context) ([]job.State, error)
	// Delete deletes a job that has ended.
	Delete(ctx context.Context, id job.ID) error
}

// Sets keeps the newest checkpoint set of each VM. Each method returns when its change is durable, and fails with a
// job.Error.
type Sets interface {
	// Commit replaces the set of a VM.
	Commit(ctx context.Context, set job.CheckpointSet) error
	// Set is the set of a VM; nil for none.
	Set(ctx context.Context, vmUUID string) (*job.CheckpointSet, error)
	// DropSet drops the set of a VM. It is no error if there is none.
	DropSet(ctx context.Context, vmUUID string) error
}

// Sink takes reports: a projection of the truth. Publish gets the newest report of each job that changed. It may block,
// may fail, and may be called again with the same reports. It is never called by two goroutines at the same time.
type Sink interface {
	Name() string
	Publish(ctx context.Context, reports []report.Report) error
}

// Peer is one of our nodes that an OMA watches.
type Peer interface {
	// Follow follows the node's reports over one connection, to its end, and calls each for whatever comes, from one
	// goroutine. last is the ID of the last event; "" begins with all jobs. It notices a node that is silent.
	Follow(ctx context.Context, last string, each func(PeerEvent)) error
}

// PeerEvent is what one of our nodes has sent. One without jobs and deletions says that the node is there.
type PeerEvent struct {
	ID       string          // of the event; "" if the place in the stream stays
	Snapshot bool            // Jobs are all jobs of the node
	Jobs     []report.Report // as the node made them
	Deleted  []report.Deleted
}

// OldPeer is an older VMA that an OMA watches. It has no list of its jobs.
type OldPeer interface {
	// Poll asks for one job. found is false if the VMA does not know it. The caller limits the time by ctx. It may be
	// called from many goroutines.
	Poll(ctx context.Context, id job.ID) (answer report.Polled, found bool, err error)
}
