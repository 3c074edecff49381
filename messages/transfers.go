package messages

import "github.com/vmferry/vmferry/job"

// To the transfers actor.
type (
	// StartTransfer asks for an attempt at a disk. Answered by TransferStarted, whose sender is the new transfer, or by
	// TransferEnded without a sender if there can be none.
	StartTransfer struct{ Task job.TransferTask }
	// LimitJob changes limits of a job's transfers.
	LimitJob struct {
		ID     job.ID
		Limits job.TransferLimits
	}
)

// IgnoreDeadLetterLogging: a node that stops answers no more.
func (StartTransfer) IgnoreDeadLetterLogging() {}

// To a transfer actor: Stop, see disk.go. It ends by itself when its Disk does.
