package http

import (
	"context"
	"iter"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Reports has the newest report of each job. Its methods are called from many goroutines and must not wait for a job.
type Reports interface {
	// Report returns the newest report of a job; NotFound if there is none.
	Report(ctx context.Context, id job.ID) (report.Report, error)
	// Reports returns the newest report of every job: the one that was created last comes first, then falling ids. All
	// readers share the reports, here and below: none may change one.
	Reports(ctx context.Context) ([]*report.Report, error)
	// Each goes through the same reports without a copy of the list; the other way round if oldest is true. The caller
	// must be quick, and must not call another method meanwhile.
	Each(oldest bool) iter.Seq[*report.Report]
	// Subscribe starts to follow. If all changes after the version after are still kept, resumed is true and missed
	// holds them in order; else snapshot holds the newest report of every job. The zero version asks for a snapshot.
	Subscribe(after report.Version) (snapshot []*report.Report, missed []report.Change, resumed bool, sub Subscription)
}

// Subscription delivers the reports that come after Subscribe. One goroutine uses it and closes it.
type Subscription interface {
	// Next waits for new reports and returns the newest one of each job that changed, in the order of their versions.
	// It fails when ctx ends, and can then be called again.
	Next(ctx context.Context) ([]*report.Report, error)
	// NextChanges is Next with the deletions of jobs. It also fails, with Conflict, if the reader was so slow that it
	// missed some: it must subscribe anew then.
	NextChanges(ctx context.Context) ([]report.Change, error)
	Close()
}

// Commands executes commands. Its methods are called from many goroutines, return when the command is durable (not when
// it is done), and fail with a job.Error.
type Commands interface { //nolint:interfacebloat // all commands that a node takes
	// Submit accepts a job. For the same key and body it returns the id of the earlier job, and existing is true; the
	// same key with another body is Invalid. A VM that has an unfinished job is a Conflict that names that job.
	Submit(ctx context.Context, spec job.Spec, o rest.SubmitOptions) (id job.ID, existing bool, err error)
	// Command gives a verb to a job. It fails with NotFound, or with Conflict, whose next step has the allowed verbs.
	Command(ctx context.Context, id job.ID, c job.CommandReceived) error
	// Limit changes limits of a job.
	Limit(ctx context.Context, id job.ID, l job.Limited) error
	// Rehearse makes the actor of a running disk panic. It fails with NotFound, or with Conflict if the disk does not
	// run.
	Rehearse(ctx context.Context, id job.ID, disk job.DiskID) error
	// Limits returns the limits of the node, and what is in use of them on each host.
	Limits() (job.Limits, []job.HostUse)
	// SetLimits changes the limits of the node; they hold after a restart too. nil restores those of the configuration.
	SetLimits(ctx context.Context, l *job.Limits) error
	// ExternalUpdate takes the update that another copy tool sends about its job; an unknown id makes a job. It fails
	// with Invalid, Conflict (the id is that of a job of this node), and Unavailable with report.ErrTooManyExternal.
	ExternalUpdate(ctx context.Context, id job.ID, u report.Update) error
	// Events returns the journal of a job, oldest first.
	Events(ctx context.Context, id job.ID) ([]Event, error)
}

// Speeds has how fast jobs moved bytes over time. Its methods are called from many goroutines.
type Speeds interface {
	// Job returns the speeds of a job in the last time, as long as window; step is 1 s, 10 s, 5 min, or 0 for the
	// finest that reaches back so far. r is the newest report of the job.
	Job(r *report.Report, window, step time.Duration) report.Series
	// Total is Job for all jobs of this node together.
	Total(window, step time.Duration) report.Series
}

// Event is one entry of a job's journal.
type Event struct {
	Seq  int64
	At   time.Time
	JSON []byte // as job.EncodeEvent wrote it
}

// Source is the vCenter that VMs are read from. Its methods change nothing, may take seconds, stop early when ctx ends,
// and fail with a job.Error.
type Source interface {
	// Inspect finds a VM by inventory path, UUID, moref or unique name.
	Inspect(ctx context.Context, vm string) (job.VM, error)
	// Preflight checks whether a job could run: one check for each condition. The error is for checks that could not be
	// made, not for a check that failed.
	Preflight(ctx context.Context, spec job.Spec) ([]rest.Check, error)
	// VMs lists all VMs, in the order of their paths and then of their refs. missing are the nodes that could not say
	// which VMs they have; none if it is not nodes that are asked.
	VMs(ctx context.Context) (list []job.ListedVM, missing []string, err error)
}

// Volumes is the ledger of targets. Its methods are called from many goroutines and fail with a job.Error.
type Volumes interface {
	// All lists the volumes that were written or that an unfinished job has claimed, the oldest claim first.
	All(ctx context.Context) ([]job.VolumeRecord, error)
	// Free releases a volume, and returns when that is durable. It fails with NotFound, and with Conflict if a job that
	// has not ended uses it.
	Free(ctx context.Context, id string) error
}

// Nodes are the nodes whose jobs an OMA shows. Its methods are called from many goroutines and fail with a job.Error.
type Nodes interface {
	// List is how each node is now, in the order of the configuration. It may ask the nodes, for at most 2 s.
	List(ctx context.Context) []rest.Node
	// Watch begins to ask an older VMA for a job. It fails with NotFound if there is no such node, and with Conflict if
	// the node tells of its jobs by itself, or if the id is that of another job here.
	Watch(ctx context.Context, node string, id job.ID) error
}

// History has the jobs in the tables of the older chain. Its methods are called from many goroutines and fail with a
// job.Error.
type History interface {
	// Page returns the rows that a filter selects, the newest first, and the cursor of the next page; "" if none.
	// It returns within some seconds, also if the database hangs. It fails with Invalid for a cursor of another list.
	Page(ctx context.Context, f rest.HistoryFilter) (rows []rest.HistoryRow, next string, err error)
}

// TokenStore keeps tokens. Its methods are called from many goroutines, return when a change is durable, and fail with
// a job.Error.
type TokenStore interface {
	// Tokens returns all tokens and sessions.
	Tokens(ctx context.Context) ([]job.Token, error)
	// ChangeTokens adds or replaces tokens, and removes those with the ids in drop, all or nothing.
	ChangeTokens(ctx context.Context, save []job.Token, drop []string) error
}

// System returns the state of the daemon.
type System interface {
	State(ctx context.Context) SystemState
}

// SystemState is the daemon at one moment.
type SystemState struct {
	Role      string // vma, oma or all
	StartedAt time.Time
	Ready     bool   // jobs can be accepted
	Reason    string // why the daemon is not ready; "" while it is
	VCenter   rest.VCenter
	Sinks     []rest.Sink // where reports are projected to
	Webhooks  []rest.Webhook
	Actors    ActorState
	Links     []LinkState // by node
}

// LinkState is how the link with one node is.
type LinkState struct {
	Node string
	rest.Link
}

// ActorState is how the daemon's actors are at one moment.
type ActorState struct {
	Mailboxes map[string]int   // messages that wait, by actor
	Panics    map[string]int64 // since the start, by the kind of actor
	Revived   int64            // jobs that began again from the journal after a panic, since the start
	Down      int64            // jobs that stand still, because their actors panicked too often
}
