package rest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tmaxmax/go-sse"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// How Watch behaves when the daemon is away.
const (
	firstPause = 500 * time.Millisecond
	mostPause  = 10 * time.Second
	silence    = 45 * time.Second // three heartbeats: the connection is dead
)

var errSilent = errors.New("nothing came from the daemon for 45 s")

// Watch follows the daemon's jobs, or only those that are named, and calls each for every new report, from one
// goroutine, in the order of each job's versions. lastEventID is up to where the caller knows; "" begins with the
// newest report of every job. It comes back after a lost connection and misses no end state. It ends with ctx, with the
// error of each, or if the daemon can't be reached at first or refuses.
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
		pause = min(mostPause, 2*pause)
	}
}

// wait lets a pause go by, a little uneven so that many clients do not come back at once.
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

// watch is one call of Watch.
type watch struct {
	client    *Client
	jobs      []string
	each      func(report.Report) error
	last      string                    // id of the last event
	known     map[job.ID]report.Version // newest version that each was told
	connected bool                      // the daemon was there once
	stopped   error                     // of each
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
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) }) // also bounds the wait for the first byte
	defer quiet.Stop()
	resp, err := w.client.send(ctx, http.MethodGet, "/api/v1/events?"+q.Encode(), header, nil)
	if err != nil && errors.Is(context.Cause(ctx), errSilent) {
		err = job.Errorf("watch", job.Unavailable, "Look whether the daemon still answers at /livez", "%w", errSilent)
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }() // the stream is over
	if resp.StatusCode != http.StatusOK {
		return false, readAnswer(resp, nil)
	}
	w.connected = true
	alive := readerFunc(func(b []byte) (int, error) {
		n, err := resp.Body.Read(b)
		quiet.Reset(silence)
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
	var snapshot struct {
		Jobs []report.Report `json:"jobs"`
	}
	switch ev.Type {
	case "snapshot":
		if err := json.Unmarshal([]byte(ev.Data), &snapshot); err != nil {
			return job.Errorf("read event", job.Corrupt, "", "%w", err)
		}
	case "progress":
		snapshot.Jobs = make([]report.Report, 1)
		if err := json.Unmarshal([]byte(ev.Data), &snapshot.Jobs[0]); err != nil {
			return job.Errorf("read event", job.Corrupt, "", "%w", err)
		}
	default:
		return nil // a newer daemon may send more
	}
	for _, r := range snapshot.Jobs {
		if v, had := w.known[r.JobID]; had && !v.Less(r.Version()) {
			continue // it came before the connection was lost
		}
		if err := w.each(r); err != nil {
			w.stopped = err
			return err
		}
		w.known[r.JobID] = r.Version()
	}
	w.last = ev.LastEventID
	return nil
}
