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
	// Forget drops the report of a job that was deleted.
	Forget struct{ ID job.ID }
)
