package http

import (
	"context"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Reports is where the newest report of each job is read. Its methods are called from many goroutines and must not
// wait for a job.
type Reports interface {
	// Report returns the newest report of a job; NotFound if there is none.
	Report(ctx context.Context, id job.ID) (report.Report, error)
	// Reports returns the newest report of every job.
	Reports(ctx context.Context) ([]report.Report, error)
	// Subscribe starts to follow. If everything behind after is still known, resumed is true and missed holds it in
	// order; else snapshot holds the newest report of every job. The zero version asks for a snapshot.
	Subscribe(after report.Version) (snapshot, missed []report.Report, resumed bool, sub Subscription)
}

// Subscription delivers what comes after Subscribe. One goroutine uses it and closes it.
type Subscription interface {
	// Next waits until something is new and returns the newest report of each job that changed, in the order of their
	// versions. It fails when ctx ends, and can then be called again.
	Next(ctx context.Context) ([]report.Report, error)
	Close()
}

// Commands is who carries out what is asked for. Its methods are called from many goroutines, return when the request
// is durable (not when it is done), and fail with a job.Error.
type Commands interface { //nolint:interfacebloat // all that can be asked of a node
	// Submit accepts a job. The same key and body give the earlier job's id, and existing; the same key with another
	// body is Invalid. A job for a VM that has an unfinished one is a Conflict that names it.
	Submit(ctx context.Context, spec job.Spec, o rest.SubmitOptions) (id job.ID, existing bool, err error)
	// Command gives a verb to a job: NotFound, or Conflict with the verbs that are allowed.
	Command(ctx context.Context, id job.ID, asked job.CommandReceived) error
	// Limit changes limits of a job.
	Limit(ctx context.Context, id job.ID, l job.Limited) error
	// Rehearse makes the actor of a running disk panic: NotFound, or Conflict if the disk does not run.
	Rehearse(ctx context.Context, id job.ID, disk job.DiskID) error
	// Limits are those of the node, and what is in use.
	Limits() (job.Limits, []job.HostUse)
	// SetLimits changes those of the node, also for after a restart; nil for those of the configuration.
	SetLimits(ctx context.Context, l *job.Limits) error
	// ExternalUpdate takes what another copy tool says of its job; an unknown id makes one.
	ExternalUpdate(ctx context.Context, id job.ID, u report.Update) error
	// Events returns the journal of a job, oldest first.
	Events(ctx context.Context, id job.ID) ([]Event, error)
}

// Event is one entry of a job's journal.
type Event struct {
	Seq  int64
	At   time.Time
	JSON []byte // as job.EncodeEvent wrote it
}

// Source is the side that VMs are read from. Its methods change nothing, may take seconds, stop early when ctx ends,
// and fail with a job.Error.
type Source interface {
	// Inspect finds a VM by inventory path, UUID, moref or unique name.
	Inspect(ctx context.Context, vm string) (job.VM, error)
	// Preflight looks whether a job could run: one check for each thing that must be right. An error says that it could
	// not look, not that a check failed.
	Preflight(ctx context.Context, spec job.Spec) ([]rest.Check, error)
}

// System tells how the daemon is.
type System interface {
	State(ctx context.Context) SystemState
}

// SystemState is the daemon at one moment.
type SystemState struct {
	Role      string      // vma, oma or all
	StartedAt time.Time   //
	Ready     bool        // jobs can be accepted
	Reason    string      // why not; "" while ready
	Sinks     []rest.Sink // where reports are projected to
}
