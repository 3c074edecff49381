package rest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/tmaxmax/go-sse"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// StreamEvent is one event of a daemon's stream. One without jobs and deletions says that the daemon is there.
type StreamEvent struct {
	ID       string          // Last-Event-ID from here on; "" if it stays
	Snapshot bool            // Jobs are all jobs that the daemon has
	Jobs     []report.Report // new reports, or all
	Deleted  []report.Deleted
}

// Stream follows one connection to its end, and calls each when it is open, and for each event, from one goroutine.
// lastEventID is that of the last event that the caller has seen; "" begins with all jobs. It returns when ctx ends,
// with the error of each, with the daemon's refusal, or when the daemon has sent nothing for 10 s.
func (c *Client) Stream(ctx context.Context, lastEventID string, each func(StreamEvent) error) error {
	var stop error
	opened := func() { stop = each(StreamEvent{}) }
	_, err := c.stream(ctx, lastEventID, nil, opened, func(ev StreamEvent) error {
		if stop != nil {
			return stop
		}
		return each(ev)
	})
	return err
}

// stream is Stream for the given jobs only; nil for all. opened is called when the daemon has accepted.
func (c *Client) stream(ctx context.Context, last string, jobs []string, opened func(), each func(StreamEvent) error) (
	connected bool, err error,
) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q := url.Values{}
	if len(jobs) > 0 {
		q.Set("jobs", strings.Join(jobs, ","))
	}
	header := http.Header{"Accept": {"text/event-stream"}}
	if last != "" {
		header.Set("Last-Event-ID", last)
	}
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) }) // also limits the wait for the first byte
	defer quiet.Stop()
	resp, err := c.send(ctx, http.MethodGet, "/api/v1/events?"+q.Encode(), header, nil)
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
	if kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";"); kind != "text/event-stream" {
		return false, job.Errorf("watch", job.Corrupt, "Check whether a vmferry daemon serves this address",
			"the answer is %s, not a stream of events", Clip(kind))
	}
	opened()
	alive := readerFunc(func(b []byte) (int, error) {
		n, err := resp.Body.Read(b)
		quiet.Reset(silence)
		if n > 0 {
			c.clock.hear()
		}
		return n, err
	})
	for ev, err := range sse.Read(alive, &sse.ReadConfig{MaxEventSize: maxAnswer}) {
		var out StreamEvent
		if err == nil {
			out, err = c.read(ev)
		}
		if err == nil {
			err = each(out)
		}
		if err != nil && errors.Is(context.Cause(ctx), errSilent) {
			err = job.Errorf("watch", job.Unavailable, "Check whether the daemon answers at /livez", "%w", errSilent)
		}
		if err != nil {
			return true, err
		}
	}
	return true, io.ErrUnexpectedEOF
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// read reads one event. Newer daemons may send more kinds of them: those say nothing.
func (c *Client) read(ev sse.Event) (StreamEvent, error) {
	out := StreamEvent{ID: ev.LastEventID}
	var err error
	switch ev.Type {
	case SnapshotEvent:
		var all struct {
			Jobs []report.Report `json:"jobs"`
		}
		err = json.Unmarshal([]byte(ev.Data), &all)
		out.Snapshot, out.Jobs = true, all.Jobs
	case ProgressEvent:
		out.Jobs = make([]report.Report, 1)
		err = json.Unmarshal([]byte(ev.Data), &out.Jobs[0])
	case DeletedEvent:
		out.Deleted = make([]report.Deleted, 1)
		err = json.Unmarshal([]byte(ev.Data), &out.Deleted[0])
	case TimeEvent:
		c.clock.event(ev.Data)
		out.ID = ""
	default:
		out.ID = ""
	}
	if err != nil {
		return out, job.Errorf("read event", job.Corrupt, "", "%w", err)
	}
	return out, nil
}
