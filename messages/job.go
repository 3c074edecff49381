package messages

import "github.com/vmferry/vmferry/job"

// To a Job actor.
type (
	// Deliver is an event from outside the job: its turn came. Not answered.
	Deliver struct{ Event job.Event }
	// Ask is an event that somebody waits for: a command or a new limit. Answered by Answer when it is durable.
	Ask struct{ Event job.Event }
	// DiskEnded is the last word of a Disk actor: its attempt is over and nobody writes to the target any more. Event
	// is a DiskMoved, DiskVerified or AttemptFailed.
	DiskEnded struct {
		Disk  job.DiskID
		Event job.Event
	}
)
