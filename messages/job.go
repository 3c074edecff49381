package messages

import "github.com/vmferry/vmferry/job"

// To a Job actor.
type (
	// Deliver is an event that no caller waits for: Admitted. Not answered.
	Deliver struct{ Event job.Event }
	// Ask is an event that a caller waits for: a command or a new limit. Answered by Answer when the event is durable.
	Ask struct{ Event job.Event }
	// TransfersOver answers EndTransfers.
	TransfersOver struct{ Disk job.DiskID }
	// DiskEnded is the last message of a Disk actor: its attempt is over and no longer writes to the target. Event is a
	// DiskMoved, DiskVerified or AttemptFailed.
	DiskEnded struct {
		Disk  job.DiskID
		Event job.Event
	}
)

// IgnoreDeadLetterLogging keeps protoactor from logging the message as a dead letter: the Job may be gone by then.
func (TransfersOver) IgnoreDeadLetterLogging() {}
