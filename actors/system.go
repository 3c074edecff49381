package actors

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
)

// newSystem makes an actor system that logs to log and to nothing else.
func newSystem(log *slog.Logger) *actor.ActorSystem {
	quiet := slog.New(warnings{log.Handler()})
	return actor.NewActorSystem(actor.WithLoggerFactory(func(*actor.ActorSystem) *slog.Logger { return quiet }))
}

// warnings lets the framework's warnings and errors through; its news are ours to tell.
type warnings struct{ slog.Handler }

func (w warnings) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && w.Handler.Enabled(ctx, l)
}

const askFor = 10 * time.Second // how long an answer may take when the caller sets no deadline

// ask sends a request and waits for its answer. Nobody inside an actor may call it. A stopped actor is Unavailable, no
// answer in time is Timeout.
func ask[R any](ctx context.Context, sys *actor.ActorSystem, pid *actor.PID, msg any) (R, error) {
	var none R
	d := askFor
	if t, ok := ctx.Deadline(); ok {
		d = max(0, time.Until(t)) // a negative duration would mean: wait for ever
	}
	v, err := sys.Root.RequestFuture(pid, msg, d).Result()
	switch {
	case errors.Is(err, actor.ErrDeadLetter):
		return none, job.Errorf("ask", job.Unavailable, "Try again; the daemon is starting or stopping",
			"nobody is there to answer")
	case errors.Is(err, actor.ErrTimeout):
		return none, job.Errorf("ask", job.Timeout, "Look at the job: the request may still be carried out",
			"no answer within %v", d)
	case err != nil:
		return none, err
	}
	r, ok := v.(R)
	if !ok {
		return none, job.Errorf("ask", job.Internal, "", "asked for %T, got %T", none, v)
	}
	return r, nil
}

// stop stops an actor and all below it, and waits until they are gone or ctx is over.
func stop(ctx context.Context, sys *actor.ActorSystem, pid *actor.PID) error {
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
