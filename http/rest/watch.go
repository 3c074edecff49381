package rest

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
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

// The events of a stream, with TimeEvent.
const (
	SnapshotEvent = "snapshot"
	ProgressEvent = "progress"
	DeletedEvent  = "deleted"
)

// Watch follows the daemon's jobs, or only the given ones, and calls each for every new report, from one goroutine, in
// the order of each job's versions. lastEventID is the last event that the caller has seen; "" starts with the newest
// report of every job. Watch connects again after a lost connection and misses no end state. It returns when ctx ends,
// with the error of each, with the daemon's refusal, or if the first connection fails.
func (c *Client) Watch(ctx context.Context, lastEventID string, each func(report.Report) error, jobs ...job.ID) error {
	return c.WatchChanges(ctx, lastEventID, func(ch report.Change) error {
		if ch.Report == nil {
			return nil
		}
		return each(*ch.Report)
	}, jobs...)
}

// WatchChanges is Watch with the deletions of jobs. It tells of a job that was deleted while there was no connection as
// well, if the caller has got a report of it or has named it: with the version of the snapshot in which it is missing,
// and the zero time.
func (c *Client) WatchChanges(ctx context.Context, lastEventID string, each func(report.Change) error,
	jobs ...job.ID,
) error {
	w := watch{client: c, last: lastEventID, each: each, known: map[job.ID]report.Version{}}
	for _, id := range jobs {
		w.jobs = append(w.jobs, string(id))
		w.known[id] = report.Version{}
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
	client *Client
	jobs   []string
	each   func(report.Change) error
	last   string // id of the last event
	// the newest version that each was called with; zero for a job that the caller has named and that is not known yet
	known     map[job.ID]report.Version
	connected bool  // there was a connection
	stopped   error // the error of each
}

// once follows one connection to its end.
func (w *watch) once(ctx context.Context) (connected bool, err error) {
	return w.client.stream(ctx, w.last, w.jobs, func() { w.connected = true }, w.take)
}

func (w *watch) take(ev StreamEvent) error {
	if ev.Snapshot {
		if err := w.snapshot(ev); err != nil {
			return err
		}
	} else {
		for i := range ev.Jobs {
			if err := w.report(&ev.Jobs[i]); err != nil {
				return err
			}
		}
	}
	for i := range ev.Deleted {
		if err := w.deleted(&ev.Deleted[i]); err != nil {
			return err
		}
	}
	if ev.ID != "" {
		w.last = ev.ID
	}
	return nil
}

// snapshot takes the newest report of every job that is followed. Those that are not there were deleted.
func (w *watch) snapshot(ev StreamEvent) error {
	gone := maps.Clone(w.known)
	for i := range ev.Jobs {
		delete(gone, ev.Jobs[i].JobID)
		if err := w.report(&ev.Jobs[i]); err != nil {
			return err
		}
	}
	version, _ := report.ParseVersion(ev.ID)
	for _, id := range slices.Sorted(maps.Keys(gone)) {
		if err := w.forget(&report.Deleted{JobID: id, Epoch: version.Epoch, Seq: version.Seq}); err != nil {
			return err
		}
	}
	return nil
}

func (w *watch) report(r *report.Report) error {
	if v, had := w.known[r.JobID]; had && !v.Less(r.Version()) {
		return nil // it was delivered before the connection was lost
	}
	if err := w.tell(report.Change{Report: r}); err != nil {
		return err
	}
	w.known[r.JobID] = r.Version()
	return nil
}

func (w *watch) deleted(d *report.Deleted) error {
	if v, had := w.known[d.JobID]; had && !v.Less(d.Version()) {
		return nil // another job has got the id since
	}
	return w.forget(d)
}

func (w *watch) forget(d *report.Deleted) error {
	if _, had := w.known[d.JobID]; !had {
		return nil // the caller was told before, or has never heard of the job
	}
	delete(w.known, d.JobID)
	return w.tell(report.Change{Deleted: d})
}

func (w *watch) tell(c report.Change) error {
	err := w.each(c)
	if err != nil {
		w.stopped = err
	}
	return err
}
