package actors

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
)

// work is one goroutine that belongs to an actor. At its end it sends one message to that actor.
type work struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// begin runs f in a goroutine and sends its result to the actor of c. If f panics, the result of onPanic is sent. f's
// context ends with parent, which ends when the node stops, and when stop or halt is called.
func begin(c actor.Context, parent context.Context, f func(context.Context) any, onPanic func(error) any) *work {
	ctx, cancel := context.WithCancel(parent)
	w := &work{cancel: cancel, done: make(chan struct{})}
	self, root := c.Self(), c.ActorSystem().Root // c itself belongs to the actor's goroutine
	go func() {
		answer := guard(ctx, f, onPanic)
		cancel()
		if answer != nil {
			root.Send(self, answer)
		}
		close(w.done) // after the message: halt returns when nothing of this work comes any more
	}()
	return w
}

// guard calls f, and onPanic if f panics.
func guard(ctx context.Context, f func(context.Context) any, onPanic func(error) any) (answer any) {
	defer func() {
		if p := recover(); p != nil {
			answer = onPanic(job.Errorf("", job.Internal, reportFault, "panic: %v\n%s", p, debug.Stack()))
		}
	}()
	return f(ctx)
}

// halt cancels the work and waits until its goroutine has ended: after that nothing reads or writes for the actor. A
// nil work has ended.
func (w *work) halt() {
	if w == nil {
		return
	}
	w.cancel()
	<-w.done
}

// stop cancels the work and does not wait. Its message still comes.
func (w *work) stop() {
	if w != nil {
		w.cancel()
	}
}

// noDeadLetterLog is embedded in messages that may arrive after their actor has ended. They are then dropped without a
// line in the log.
type noDeadLetterLog struct{}

// IgnoreDeadLetterLogging tells protoactor not to log the message as a dead letter.
func (noDeadLetterLog) IgnoreDeadLetterLogging() {}

// stepFailed is the event of a step that failed.
func stepFailed(phase job.Phase, err error) job.StepFailed {
	return job.StepFailed{
		Phase: phase, Kind: job.KindOf(err), Message: fmt.Sprint(err), Next: job.NextOf(err), What: job.PeerOf(err),
	}
}
