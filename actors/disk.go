package actors

import (
	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// disk is the actor Disk: one attempt to copy a disk or to read it back. It requests a transfer from the actor
// transfers, on this node or another one, watches it, and sends its Job how the attempt ended. It sends that only when
// nothing writes to the target any more.
type disk struct {
	diskDeps
	transfer *actor.PID // nil before it is known
	stopped  bool       // Stop was received
	end      *messages.TransferEnded
	crash    string // why the transfer panicked; "" if it did not
}

// diskDeps is what a Disk is made of.
type diskDeps struct {
	transfers *actor.PID
	task      job.TransferTask
}

// transferGone says that the transfer has terminated.
type transferGone struct{ noDeadLetterLog }

const reportFault = "Report this fault of vmferry, with the log"

func diskProps(d diskDeps) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor { return &disk{diskDeps: d} })
}

func (d *disk) Receive(c actor.Context) {
	defer keepStack()
	switch m := c.Message().(type) {
	case *actor.Started:
		c.Request(d.transfers, messages.StartTransfer{Task: d.task})
	case messages.TransferStarted:
		d.watch(c, c.Sender())
	case messages.Stop:
		d.stop(c)
	case messages.Panic:
		panic("rehearsed")
	case messages.TransferEnded:
		d.ended(c, m)
	case messages.TransferCrashed:
		d.crash = m.Reason
	case *actor.Terminated:
		if d.transfer != nil && m.Who.Equal(d.transfer) {
			// It overtakes the TransferCrashed that was sent before. transferGone is queued after that message.
			c.Send(c.Self(), transferGone{})
		}
	case transferGone:
		d.gone(c)
	}
}

// watch takes the transfer of this attempt. TransferEnded may come before TransferStarted, so both call it.
func (d *disk) watch(c actor.Context, transfer *actor.PID) {
	if d.transfer != nil {
		return
	}
	d.transfer = transfer
	c.Watch(transfer)
	if d.stopped {
		c.Send(transfer, messages.Stop{})
	}
}

// stop asks the transfer to end. If the transfer is not known yet, watch does that.
func (d *disk) stop(c actor.Context) {
	d.stopped = true
	if d.transfer != nil {
		c.Send(d.transfer, messages.Stop{})
	}
}

// ended takes the transfer's last message, and stops the transfer. A message without a sender says that there is no
// transfer.
func (d *disk) ended(c actor.Context, m messages.TransferEnded) {
	if d.end != nil {
		return
	}
	d.end = &m
	if c.Sender() == nil {
		d.deliver(c)
		return
	}
	d.watch(c, c.Sender())
	c.Stop(d.transfer)
}

// gone follows the end of the transfer. A transfer that has not sent TransferEnded has crashed.
func (d *disk) gone(c actor.Context) {
	if d.end == nil {
		message := "the transfer crashed"
		if d.crash != "" {
			message += ": " + d.crash
		}
		d.end = &messages.TransferEnded{
			Counters: d.task.Disk.Counters,
			Cause:    &job.Failure{Kind: job.Internal, Message: message, Next: reportFault},
		}
	}
	d.deliver(c)
}

// deliver sends the Job how the attempt ended. The Job stops this actor after it has taken the message: Terminated
// would overtake the message if the Disk stopped itself.
func (d *disk) deliver(c actor.Context) {
	id, attempt := d.task.Disk.Disk.ID, d.task.Disk.Attempt
	var ev job.Event
	switch cause := d.end.Cause; {
	case cause == nil && d.task.Verify != "":
		ev = job.DiskVerified{Disk: id, Attempt: attempt, Counters: d.end.Counters}
	case cause == nil:
		ev = job.DiskMoved{Disk: id, Attempt: attempt, Counters: d.end.Counters}
	default:
		ev = job.AttemptFailed{
			Disk: id, Attempt: attempt, Counters: d.end.Counters,
			Kind: cause.Kind, Message: cause.Message, Next: cause.Next, What: d.end.What, Since: d.end.Since,
		}
	}
	c.Request(c.Parent(), messages.DiskEnded{Disk: id, Event: ev})
}
