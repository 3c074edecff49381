package actors

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
)

// newSystem makes an actor system that writes its warnings and errors to log.
func newSystem(log *slog.Logger) *actor.ActorSystem {
	quiet := slog.New(warnings{log.Handler()})
	return actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return quiet }))
}

// warnings passes on warnings and errors only.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}

const answerTimeout = 10 * time.Second // how long an answer may take when the caller sets no deadline

// ask sends a request and waits for its answer. An actor must not call it. An actor that has stopped is Unavailable; no
// answer until ctx's deadline, or within 10 s without one, is Timeout.
func ask[R any](ctx context.Context, sys *actor.ActorSystem, pid *actor.PID, msg any) (R, error) {
	var none R
	d := answerTimeout
	if t, ok := ctx.Deadline(); ok {
		d = max(0, time.Until(t)) // protoactor waits forever for a negative duration
	}
	v, err := sys.Root.RequestFuture(pid, msg, d).Result()
	switch {
	case errors.Is(err, actor.ErrDeadLetter):
		return none, job.Errorf("ask", job.Unavailable, "Try again in a moment", "the daemon is starting or stopping")
	case errors.Is(err, actor.ErrTimeout):
		return none, job.Errorf("ask", job.Timeout, "Look at the job: the request may still be carried out",
			"no answer within %v", d)
	case err != nil:
		return none, err
	}
	r, ok := v.(R)
	if !ok {
		return none, job.Errorf("ask", job.Internal, reportFault, "the answer has the wrong type")
	}
	return r, nil
}

// halt stops an actor and its children, and waits until they have ended or ctx is over.
func halt(ctx context.Context, sys *actor.ActorSystem, pid *actor.PID) error {
	gone := make(chan struct{})
	watcher := sys.Root.Spawn(actor.PropsFromFunc(func(c actor.Context) {
		switch m := c.Message().(type) {
		case *actor.Started:
			c.Watch(pid)
			c.Stop(pid)
		case *actor.Terminated:
			if m.Who.Equal(pid) {
				close(gone)
				c.Stop(c.Self())
			}
		}
	}))
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		sys.Root.Stop(watcher)
		return context.Cause(ctx)
	}
}
