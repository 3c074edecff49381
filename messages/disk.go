package messages

import "github.com/vmferry/vmferry/job"

// To a Disk actor.
type (
	// Stop asks it to flush, record what is durable, and end. A Disk passes it on to its transfer, and answers with
	// DiskEnded to its Job.
	Stop struct{}
	// Panic rehearses a fault of ours.
	Panic struct{}
	// TransferStarted comes from the transfer that was asked for: its sender is the transfer.
	TransferStarted struct{}
	// TransferEnded is the last message of a transfer: nothing reads or writes for it any more. The transfer stays alive
	// until its Disk stops it, so that its end cannot overtake this.
	TransferEnded struct {
		Counters job.Counters
		Cause    *job.Failure // kind, message and next step; nil if everything is done
	}
	// TransferCrashed gives the reason of a panic. It is sent before the transfer is stopped.
	TransferCrashed struct{ Reason string }
)

// IgnoreDeadLetterLogging: the Disk may be gone before its transfer is.
func (TransferStarted) IgnoreDeadLetterLogging() {}

// IgnoreDeadLetterLogging is as above.
func (TransferEnded) IgnoreDeadLetterLogging() {}

// IgnoreDeadLetterLogging is as above.
func (TransferCrashed) IgnoreDeadLetterLogging() {}

// IgnoreDeadLetterLogging: a transfer may have ended before it is asked to.
func (Stop) IgnoreDeadLetterLogging() {}
