package messages

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// To a Disk actor.
type (
	// Stop asks the Disk to end its attempt: flush, record what is durable, end. The Disk passes it on to its transfer,
	// and sends DiskEnded to its Job when the attempt has ended.
	Stop struct{}
	// Panic makes the Disk panic, to rehearse a fault of vmferry.
	Panic struct{}
	// TransferStarted says that the requested transfer runs. Its sender is the transfer.
	TransferStarted struct{}
	// TransferEnded is the last message of a transfer, which reads and writes nothing any more. The transfer stays
	// alive until its Disk stops it, so its Terminated can't overtake this message.
	TransferEnded struct {
		Counters job.Counters
		Cause    *job.Failure // kind, message and next step; nil if everything is done
		What     job.Peer     // at which the cause arose; "" for none
		Since    time.Time    // when that peer was heard last; zero if it is not known
	}
	// TransferCrashed gives the reason of a panic. It is sent before the transfer is stopped.
	TransferCrashed struct{ Reason string }
)

// IgnoreDeadLetterLogging drops the message silently if the Disk is gone.
func (TransferStarted) IgnoreDeadLetterLogging() {}

// IgnoreDeadLetterLogging drops the message silently if the Disk is gone.
func (TransferEnded) IgnoreDeadLetterLogging() {}

// IgnoreDeadLetterLogging drops the message silently if the Disk is gone.
func (TransferCrashed) IgnoreDeadLetterLogging() {}

// IgnoreDeadLetterLogging drops the message silently if the Disk or its transfer has ended before.
func (Stop) IgnoreDeadLetterLogging() {}
