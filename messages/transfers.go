package messages

import "github.com/vmferry/vmferry/job"

// To the transfers actor.
type (
	// StartTransfer requests an attempt at a disk. Answered by TransferStarted, whose sender is the new transfer, or by
	// TransferEnded without a sender if no transfer could be started.
	StartTransfer struct{ Task job.TransferTask }
	// EndTransfers stops the transfers of a job, or of one disk, whose Disk actors are gone. Answered by TransfersOver
	// when nothing of them reads or writes any more.
	EndTransfers struct {
		Job  job.ID
		Disk job.DiskID // "" for all disks of the job
	}
	// LimitJob changes the limits of a job's transfers.
	LimitJob struct {
		ID     job.ID
		Limits job.TransferLimits
	}
)

// IgnoreDeadLetterLogging drops the message silently if the node stops.
func (StartTransfer) IgnoreDeadLetterLogging() {}

// To a transfer actor: Stop, see disk.go. A transfer also ends when its Disk does.

// IgnoreDeadLetterLogging is as above.
func (EndTransfers) IgnoreDeadLetterLogging() {}
