package rest

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Times of Watch while the daemon cannot be reached.
const (
	firstPause = 500 * time.Millisecond
	maxPause   = 1500 * time.Millisecond // a view must tell within 3 s that the daemon is back
	silence    = 10 * time.Second        // five heartbeats; after them the connection counts as dead
)

var errSilent = errors.New("the daemon has sent nothing for 10 s")

// Watch follows the daemon's jobs, or only the given ones, and calls each for every new report, from one goroutine, in
// the order of each job's versions. lastEventID is the last event that the caller has seen; "" starts with the newest
// report of every job. Watch connects again after a lost connection and misses no end state. It returns when ctx ends,
// with the error of each, with the daemon's refusal, or if the first connection fails.
func (c *Client) Watch(ctx context.Context, lastEventID string, each func(report.Report) error, jobs ...job.ID) error {
	w := watch{client: c, last: lastEventID, each: each, known: map[job.ID]report.Version{}}
	for _, id := range jobs {
		w.jobs = append(w.jobs, string(id))
	}
	pause := firstPause
	for {
		connected, err := w.once(ctx)
		switch {
		case ctx.Err() != nil:
			return job.Errorf("watch", job.Cancelled, "", "%w", context.Cause(ctx))
		case w.stopped != nil:
			return w.stopped
		case !connected && (!w.connected || !job.KindOf(err).Retryable()):
			return err
		case connected:
			pause = firstPause
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
		pause = min(maxPause, 2*pause)
	}
}

// wait waits for 0.5 to 1.5 times pause, so that many clients do not connect at the same time.
func wait(ctx context.Context, pause time.Duration) error {
	t := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // spreads load, hides nothing
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return job.Errorf("watch", job.Cancelled, "", "%w", context.Cause(ctx))
	}
}

// watch is the state of one call of Watch.
type watch struct {
	client    *Client
	jobs      []string
	each      func(report.Report) error
	last      string                    // id of the last event
	known     map[job.ID]report.Version // newest version that each was called with
	connected bool                      // there was a connection
	stopped   error                     // the error of each
}

// once follows one connection to its end.
func (w *watch) once(ctx context.Context) (connected bool, err error) {
	return w.client.stream(ctx, w.last, w.jobs, func() { w.connected = true }, w.take)
}

func (w *watch) take(ev StreamEvent) error {
	for _, r := range ev.Jobs {
		if v, had := w.known[r.JobID]; had && !v.Less(r.Version()) {
			continue // it was delivered before the connection was lost
		}
		if err := w.each(r); err != nil {
			w.stopped = err
			return err
		}
		w.known[r.JobID] = r.Version()
	}
	if len(ev.Jobs) > 0 {
		w.last = ev.ID
	}
	return nil
}
