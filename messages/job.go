package messages

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// To a Job actor.
type (
	// Admit starts a queued job. A job that is not queued since that time any more ignores it. Not answered.
	Admit struct {
		Since time.Time
		Mark  string // random, for a job that has no mark yet
	}
	// Ask is an event that a caller waits for: a command or a new limit. Answered by Answer when the event is durable.
	Ask struct{ Event job.Event }
	// TransfersOver answers EndTransfers.
	TransfersOver struct {
		Job  job.ID
		Disk job.DiskID
	}
	// DiskEnded is the last message of a Disk actor: its attempt is over and no longer writes to the target. Event is a
	// DiskMoved, DiskVerified or AttemptFailed.
	DiskEnded struct {
		Disk  job.DiskID
		Event job.Event
	}
)

// IgnoreDeadLetterLogging keeps protoactor from logging the message as a dead letter: the Job may be gone by then.
func (TransfersOver) IgnoreDeadLetterLogging() {}
