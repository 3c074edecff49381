package rest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/tmaxmax/go-sse"

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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q := url.Values{}
	if len(w.jobs) > 0 {
		q.Set("jobs", strings.Join(w.jobs, ","))
	}
	header := http.Header{"Accept": {"text/event-stream"}}
	if w.last != "" {
		header.Set("Last-Event-ID", w.last)
	}
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) }) // also limits the wait for the first byte
	defer quiet.Stop()
	resp, err := w.client.send(ctx, http.MethodGet, "/api/v1/events?"+q.Encode(), header, nil)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = job.Errorf("watch", job.Unavailable, "Check whether the daemon answers at /livez", "%w", errSilent)
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // the stream has ended
	if resp.StatusCode != http.StatusOK {
		return false, readAnswer(resp, nil)
	}
	w.connected = true
	alive := readerFunc(func(b []byte) (int, error) {
		n, err := resp.Body.Read(b)
		quiet.Reset(silence)
		if n > 0 {
			w.client.clock.hear()
		}
		return n, err
	})
	for ev, err := range sse.Read(alive, &sse.ReadConfig{MaxEventSize: maxAnswer}) {
		if err == nil {
			err = w.take(ev)
		}
		if err != nil {
			return true, err
		}
	}
	return true, io.ErrUnexpectedEOF
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func (w *watch) take(ev sse.Event) error {
	var err error
	switch ev.Type {
	case SnapshotEvent:
		err = w.snapshot(ev)
	case ProgressEvent:
		var r report.Report
		if err = read(ev, &r); err == nil {
			err = w.report(&r)
		}
	case DeletedEvent:
		var d report.Deleted
		if err = read(ev, &d); err == nil {
			err = w.deleted(&d)
		}
	case TimeEvent:
		w.client.clock.event(ev.Data)
		return nil
	default:
		return nil // newer daemons may send more events
	}
	if err == nil {
		w.last = ev.LastEventID
	}
	return err
}

func read(ev sse.Event, into any) error {
	if err := json.Unmarshal([]byte(ev.Data), into); err != nil {
		return job.Errorf("read event", job.Corrupt, "", "%w", err)
	}
	return nil
}

// snapshot takes the newest report of every job that is followed. Those that are not there were deleted.
func (w *watch) snapshot(ev sse.Event) error {
	var s struct {
		Jobs []report.Report `json:"jobs"`
	}
	if err := read(ev, &s); err != nil {
		return err
	}
	gone := maps.Clone(w.known)
	for i := range s.Jobs {
		delete(gone, s.Jobs[i].JobID)
		if err := w.report(&s.Jobs[i]); err != nil {
			return err
		}
	}
	version, _ := report.ParseVersion(ev.LastEventID)
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
