package actors

import (
	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// disk is one attempt at one disk: to copy it, or to read it back. The bytes are moved by a transfer, which the actor
// transfers spawns on its request, here or on another node; the Disk watches it, and sends its Job how the attempt ended
// when nothing writes to the target any more.
type disk struct {
	diskDeps
	transfer *actor.PID // nil before it is known
	stopped  bool       // a stop was asked for
	end      *messages.TransferEnded
	crash    string // why the transfer panicked; "" if it did not
}

// diskDeps is what a disk is born with.
type diskDeps struct {
	transfers *actor.PID
	task      job.TransferTask
}

// transferGone: the transfer has terminated.
type transferGone struct{ late }

const reportFault = "This is a fault of vmferry; please report it with the log"

func diskProps(d diskDeps) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor { return &disk{diskDeps: d} })
}

func (d *disk) Receive(c actor.Context) {
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
		// The reason of a crash was sent before the transfer was stopped, but the news of its end overtakes it.
		c.Send(c.Self(), transferGone{})
	case transferGone:
		d.gone(c)
	}
}

// watch learns which transfer is its own. Its end may come before the answer that it was started.
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

// stop asks the transfer to end. One that is still being started is asked when it is known.
func (d *disk) stop(c actor.Context) {
	d.stopped = true
	if d.transfer != nil {
		c.Send(d.transfer, messages.Stop{})
	}
}

// ended takes the transfer's last message, and stops it. Without a sender there was no transfer.
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

// gone: nothing of the transfer runs any more. If it has not sent its end, it crashed.
func (d *disk) gone(c actor.Context) {
	if d.end == nil {
		message := "the transfer crashed"
		if d.crash != "" {
			message += ": " + d.crash
		}
		d.end = &messages.TransferEnded{Counters: d.task.Disk.Counters,
			Cause: &job.Failure{Kind: job.Internal, Message: message, Next: reportFault}}
	}
	d.deliver(c)
}

// deliver sends the Job how the attempt ended. The Job stops this actor when it has taken the message: news of an
// actor's end overtakes what the actor has sent.
func (d *disk) deliver(c actor.Context) {
	id, attempt := d.task.Disk.Disk.ID, d.task.Disk.Attempt
	var ev job.Event
	switch cause := d.end.Cause; {
	case cause == nil && d.task.Verify != "":
		ev = job.DiskVerified{Disk: id, Attempt: attempt, Counters: d.end.Counters}
	case cause == nil:
		ev = job.DiskMoved{Disk: id, Attempt: attempt, Counters: d.end.Counters}
	default:
		ev = job.AttemptFailed{Disk: id, Attempt: attempt, Counters: d.end.Counters,
			Kind: cause.Kind, Message: cause.Message, Next: cause.Next}
	}
	c.Request(c.Parent(), messages.DiskEnded{Disk: id, Event: ev})
}
