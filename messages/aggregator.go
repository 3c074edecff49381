package messages

import (
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// To the Aggregator actor.
type (
	// Changed is the newest durable state of a job.
	Changed struct{ State job.State }
	// Progress is how far one disk is. Lost ones do no harm: the next says it all.
	Progress struct{ Progress report.Progress }
	// External is what another copy tool posted. Answered by Answer.
	External struct {
		ID     job.ID
		Update report.Update
	}
	// Forget drops a job that was deleted.
	Forget struct{ ID job.ID }
)
