package http

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// streamLimits are the limits of the event streams.
type streamLimits struct {
	streams   int           // open at the same time
	every     time.Duration // between two batches; a batch has each job at most once
	heartbeat time.Duration // silence after which the time is sent
	write     time.Duration // of one write; a slower client is dropped, and resumes when it connects again
}

func standardLimits() streamLimits {
	return streamLimits{
		streams: 1000, every: 250 * time.Millisecond, heartbeat: rest.Heartbeat,
		write: 5 * time.Second,
	}
}

const (
	retryAfterSeconds = "5"
	maxFilter         = 500      // jobs that one request may name
	chunkSize         = 16 << 10 // bytes that are gathered before they are sent
)

// streams are the open event streams.
type streams struct {
	mu     sync.Mutex
	open   map[*stream]context.CancelFunc
	closed bool
	limits streamLimits
	// A stream has a buffer only while it writes, so that a thousand idle streams keep none.
	buffers sync.Pool // of *bytes.Buffer
}

// add registers a stream, or returns why it is refused.
func (s *streams) add(st *stream, cancel context.CancelFunc) *rest.Problem {
	s.mu.Lock()
	defer s.mu.Unlock()
	var p *rest.Problem
	switch {
	case s.closed:
		p = rest.NewProblem(rest.CodeShuttingDown, "the daemon is stopping", "Connect again in a moment")
	case len(s.open) >= s.limits.streams:
		p = rest.NewProblem(rest.CodeTooManyStreams, fmt.Sprintf("%d streams are open", len(s.open)),
			"Close some, or ask for /api/v1/jobs instead")
	default:
		s.open[st] = cancel
		return nil
	}
	p.Header = http.Header{"Retry-After": {retryAfterSeconds}}
	return p
}

func (s *streams) remove(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, st)
}

func (s *streams) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// close ends all streams; later ones are refused.
func (s *streams) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, cancel := range s.open {
		cancel()
	}
}

// stream is one client that follows the jobs. Only its request's goroutine uses it.
type stream struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	limits  streamLimits
	frames  *frames
	now     func() time.Time
	only    []job.ID // the jobs that the client named; empty for all
	buffers *sync.Pool
	buf     *bytes.Buffer // what is gathered; nil for nothing
	sent    time.Time     // when bytes were sent last
}

// out is where an event is written to.
func (st *stream) out() *bytes.Buffer {
	if st.buf == nil {
		var ok bool
		if st.buf, ok = st.buffers.Get().(*bytes.Buffer); !ok {
			st.buf = &bytes.Buffer{}
		}
	}
	return st.buf
}

// events serves GET /api/v1/events: first a snapshot of all jobs, or the changes that were missed since Last-Event-ID,
// then new ones.
func (h *Handler) events(w http.ResponseWriter, r *http.Request) {
	if foreign(r) {
		refuseOrigin(w, r)
		return
	}
	only, err := parseFilter(r.URL.Query().Get("jobs"))
	if err != nil {
		writeProblem(w, r, problemOf(err))
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	st := &stream{
		w: w, rc: http.NewResponseController(w), limits: h.streams.limits, frames: &h.frames, now: h.now, only: only,
		buffers: &h.streams.buffers,
	}
	if p := h.streams.add(st, cancel); p != nil {
		writeProblem(w, r, p)
		return
	}
	defer h.streams.remove(st)
	head := w.Header()
	head.Set("Content-Type", "text/event-stream")
	head.Set("Cache-Control", "no-store")
	head.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	if r.Method == http.MethodHead {
		return
	}
	if err := st.run(ctx, h.reports, lastEventID(r)); err != nil && ctx.Err() == nil {
		h.log.DebugContext(ctx, "event stream dropped", "remote", r.RemoteAddr, "err", err)
	}
}

// lastEventID is the version that the client has seen last; zero if there is none, or if the text is not a version.
func lastEventID(r *http.Request) report.Version {
	text := r.Header.Get("Last-Event-ID")
	if text == "" {
		text = r.URL.Query().Get("last_event_id")
	}
	v, _ := report.ParseVersion(text)
	return v
}

// foreign says whether a browser sends this request for a page of another site. The browser would not let that page
// read the stream in any case; refusing the request keeps the page from holding streams open.
func foreign(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return true
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	u, err := url.Parse(origin)
	return err != nil || u.Host != r.Host
}

func parseFilter(text string) ([]job.ID, error) {
	if text == "" {
		return nil, nil
	}
	parts := strings.Split(text, ",")
	if len(parts) > maxFilter {
		return nil, rest.NewProblem(rest.CodeParameterInvalid, fmt.Sprintf("more than %d jobs are named", maxFilter),
			"Leave the filter out").At("query.jobs", "names too many")
	}
	ids := make([]job.ID, 0, len(parts))
	for _, p := range parts {
		id, err := parseID(strings.TrimSpace(p))
		if err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// run sends events until ctx ends or a write fails. A client that was too slow to get every deletion gets a snapshot.
func (st *stream) run(ctx context.Context, reports Reports, after report.Version) error {
	fmt.Fprint(st.out(), "retry: 1000\n\n")
	for {
		err := st.follow(ctx, reports, after)
		if job.KindOf(err) != job.Conflict {
			return err
		}
		after = report.Version{}
	}
}

// follow is run until more was missed than is kept, which is an error of kind Conflict.
func (st *stream) follow(ctx context.Context, reports Reports, after report.Version) error {
	snapshot, missed, resumed, sub := reports.Subscribe(after)
	defer sub.Close()
	var err error
	if resumed {
		err = st.send(missed)
	} else {
		err = st.snapshot(snapshot)
	}
	pause := time.NewTimer(st.limits.every)
	defer pause.Stop()
	for err == nil {
		pause.Reset(st.limits.every)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return nil
		}
		err = st.next(ctx, sub)
	}
	return err
}

// next sends new reports, or the time after a silence: also while there are reports that the client does not want.
func (st *stream) next(ctx context.Context, sub Subscription) error {
	left := st.limits.heartbeat - time.Since(st.sent)
	if left <= 0 {
		return st.beat()
	}
	quiet, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	changes, err := sub.NextChanges(quiet)
	switch {
	case err == nil:
		return st.send(changes)
	case ctx.Err() == nil && quiet.Err() != nil && errors.Is(quiet.Err(), context.DeadlineExceeded):
		return st.beat()
	default:
		return err
	}
}

// beat sends the time. It has no id, so the client's place in the stream stays.
func (st *stream) beat() error {
	fmt.Fprintf(st.out(), "event: %s\ndata: {\"time_ms\":%s}\n\n", rest.TimeEvent, rest.TimeText(st.now()))
	return st.flush()
}

func (st *stream) wants(id job.ID) bool {
	return len(st.only) == 0 || slices.Contains(st.only, id)
}

// send writes one event for each change.
func (st *stream) send(changes []report.Change) error {
	for _, c := range changes {
		if !st.wants(c.JobID()) {
			continue
		}
		f, err := st.frames.change(c)
		if err != nil {
			return err
		}
		name := rest.ProgressEvent
		if c.Deleted != nil {
			name = rest.DeletedEvent
		}
		fmt.Fprintf(st.out(), "id: %s\nevent: %s\ndata: ", c.Version(), name)
		_, _ = st.out().Write(f) // never fails
		fmt.Fprint(st.out(), "\n\n")
		if err := st.flushChunk(); err != nil {
			return err
		}
	}
	return st.flush()
}

// snapshot writes all jobs as one event, in chunks: there may be thousands of jobs.
func (st *stream) snapshot(reports []*report.Report) error {
	var newest report.Version
	for _, r := range reports {
		if newest.Less(r.Version()) {
			newest = r.Version()
		}
	}
	if newest != (report.Version{}) {
		fmt.Fprintf(st.out(), "id: %s\n", newest)
	}
	fmt.Fprint(st.out(), `event: snapshot`+"\n"+`data: {"jobs":[`)
	comma := ""
	for _, r := range reports {
		if !st.wants(r.JobID) {
			continue
		}
		f, err := st.frames.of(r)
		if err != nil {
			return err
		}
		fmt.Fprint(st.out(), comma)
		_, _ = st.out().Write(f) // never fails
		comma = ","
		if err := st.flushChunk(); err != nil {
			return err
		}
	}
	fmt.Fprint(st.out(), "]}\n\n")
	return st.flush()
}

// flushChunk sends the gathered bytes if they fill a chunk.
func (st *stream) flushChunk() error {
	if st.buf == nil || st.buf.Len() < chunkSize {
		return nil
	}
	return st.flush()
}

// flush sends the gathered bytes, within the time that one write may take.
func (st *stream) flush() error {
	if st.buf == nil {
		return nil
	}
	if err := st.rc.SetWriteDeadline(time.Now().Add(st.limits.write)); err != nil &&
		!errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := st.w.Write(st.buf.Bytes()); err != nil {
		return err
	}
	st.sent = time.Now()
	if st.buf.Cap() <= 2*chunkSize {
		st.buf.Reset()
		st.buffers.Put(st.buf)
	}
	st.buf = nil
	return st.rc.Flush()
}

const maxFrames = 20_000 // jobs; twice as many as a node is made for

// frames keeps the JSON of each job's newest report, so that a thousand streams encode it once. Its methods may be
// called from many goroutines.
type frames struct {
	mu   sync.Mutex
	jobs map[job.ID]frame
}

type frame struct {
	version report.Version
	json    []byte
}

// change returns a report, as of does, or a deletion as JSON on one line. A job that was deleted has no frame any more.
func (f *frames) change(c report.Change) ([]byte, error) {
	if c.Deleted == nil {
		return f.of(c.Report)
	}
	f.mu.Lock()
	if f.jobs[c.Deleted.JobID].version.Less(c.Version()) {
		delete(f.jobs, c.Deleted.JobID)
	}
	f.mu.Unlock()
	return json.Marshal(c.Deleted)
}

// of returns the report as JSON on one line. The bytes are shared: the caller must not change them.
func (f *frames) of(r *report.Report) ([]byte, error) {
	f.mu.Lock()
	had := f.jobs[r.JobID]
	f.mu.Unlock()
	if had.json != nil && had.version == r.Version() {
		return had.json, nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, job.Errorf("encode report", job.Internal, "", "job %s: %w", r.JobID, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.jobs[r.JobID].version.Less(r.Version()) {
		if len(f.jobs) >= maxFrames {
			clear(f.jobs) // most jobs in it were deleted; the others are encoded again
		}
		f.jobs[r.JobID] = frame{r.Version(), b}
	}
	return b, nil
}
