package messages

import (
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// To the Aggregator actor.
type (
	// Changed is the newest durable state of a job.
	Changed struct{ State job.State }
	// Progress is how far one disk is. A lost one does no harm: the next one has all numbers again.
	Progress struct{ Progress report.Progress }
	// Silence says that a call is under way without an answer, or that it was answered.
	Silence struct{ Silence report.Silence }
	// External is an update that another copy tool posted. Answered by Answer.
	External struct {
		ID     job.ID
		Update report.Update
	}
	// Crashed says that the actor of a job panicked, and when it begins again from the journal. The next Changed of
	// that job says that it has begun.
	Crashed struct {
		ID    job.ID
		Cause job.Failure
		Until time.Time // zero if it does not begin again by itself
	}
	// ExternalCommand is a command for a job that Jobs does not know. Answered by Answer: Conflict if an external job
	// does not take the command, NotFound if there is no such job.
	ExternalCommand struct {
		ID       job.ID
		Received job.CommandReceived // the zero value: any command that an external job does not take
	}
	// Reserve keeps an id for a job of this node that is about to be made. Answered by Answer: Conflict if the id is
	// that of an external job. Release follows.
	Reserve struct{ ID job.ID }
	// Release says that the job of a reserved id was made, and its state was sent before, or that it was not made.
	Release struct{ ID job.ID }
	// Forget drops the report of a job that was deleted.
	Forget struct{ ID job.ID }
)
