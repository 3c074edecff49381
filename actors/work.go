package actors

import (
	"context"
	"fmt"
	"runtime/debug"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
)

// work is one goroutine that belongs to an actor. Its last act is one message to that actor.
type work struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// begin runs f outside the actor and sends what it returns to the actor itself. A panic in f becomes the answer of
// onPanic. parent ends when the node does; f's context ends with it, or when halt is called.
func begin(c actor.Context, parent context.Context, f func(context.Context) any, onPanic func(error) any) *work {
	ctx, cancel := context.WithCancel(parent)
	w := &work{cancel: cancel, done: make(chan struct{})}
	self, root := c.Self(), c.ActorSystem().Root // c itself belongs to the actor's goroutine
	go func() {
		answer := guard(ctx, f, onPanic)
		cancel()
		close(w.done)
		if answer != nil {
			root.Send(self, answer)
		}
	}()
	return w
}

func guard(ctx context.Context, f func(context.Context) any, onPanic func(error) any) (answer any) {
	defer func() {
		if p := recover(); p != nil {
			answer = onPanic(job.Errorf("", job.Internal, reportFault,
				"panic: %v\n%s", p, debug.Stack()))
		}
	}()
	return f(ctx)
}

// halt cancels the work and waits until it is over, so that "stopped" means that nobody acts any more. A nil work is
// over already.
func (w *work) halt() {
	if w == nil {
		return
	}
	w.cancel()
	<-w.done
}

// stop only asks it to end; its answer still comes.
func (w *work) stop() {
	if w != nil {
		w.cancel()
	}
}

// late marks messages that may arrive after their actor is gone: no dead letter is worth a log line for them.
type late struct{}

// IgnoreDeadLetterLogging is protoactor's way to say so.
func (late) IgnoreDeadLetterLogging() {}

// stepFailed makes the event for a step that failed.
func stepFailed(phase job.Phase, err error) job.StepFailed {
	return job.StepFailed{Phase: phase, Kind: job.KindOf(err), Message: fmt.Sprint(err), Next: job.NextOf(err)}
}
