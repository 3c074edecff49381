package http_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// follower reads one event stream as a client does.
type follower struct {
	tb    testing.TB
	resp  *http.Response
	lines *bufio.Reader
	stop  context.CancelFunc
}

type event struct{ id, name, data, comment string }

func follow(tb testing.TB, base, query, lastID string) *follower {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/events"+query, http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	f := &follower{tb: tb, resp: resp, lines: bufio.NewReader(resp.Body), stop: cancel}
	tb.Cleanup(f.close)
	return f
}

func (f *follower) close() {
	f.stop()
	_ = f.resp.Body.Close()
}

// next reads one block of the stream; ok is false when the stream ends.
func (f *follower) next() (e event, ok bool) {
	for {
		line, err := f.lines.ReadString('\n')
		if err != nil {
			return e, false
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case line == "\n":
			return e, true
		case strings.HasPrefix(line, ":"):
			e.comment = strings.TrimSpace(line)
		case name == "id":
			e.id = value
		case name == "event":
			e.name = value
		case name == "data":
			e.data = value
		}
	}
}

// named reads up to the next event of that name.
func (f *follower) named(name string) event {
	f.tb.Helper()
	for {
		e, ok := f.next()
		if !ok {
			f.tb.Fatalf("the stream ended before an event %q", name)
		}
		if e.name == name {
			return e
		}
	}
}

// change changes the job, so that it has a new report.
func (w *world) change(ctx context.Context, tb testing.TB, id job.ID) {
	tb.Helper()
	if err := w.apply(ctx, id, job.Limited{Bandwidth: new(int64(1))}); err != nil {
		tb.Fatal(err)
	}
}

func withJobs(tb testing.TB, n int) *world {
	tb.Helper()
	w := newWorld()
	for i := range n {
		id := job.ID(fmt.Sprintf("job-%d", i))
		spec := job.Spec{VM: "vm-" + string(id)}
		if err := w.apply(tb.Context(), id, job.Submitted{ID: id, Spec: spec}); err != nil {
			tb.Fatal(err)
		}
	}
	return w
}

func TestAStreamStartsWithASnapshotAndContinuesWithEachReport(t *testing.T) {
	w := withJobs(t, 2)
	_, s := w.server(t)
	f := follow(t, s.URL, "", "")
	first := f.named("snapshot")
	if want := fmt.Sprintf("%d-2", epoch); first.id != want {
		t.Errorf("snapshot has id %q, want %q", first.id, want)
	}
	jobs := decode[struct{ Jobs []report.Report }](t, []byte(first.data)).Jobs
	if len(jobs) != 2 {
		t.Errorf("snapshot has %d jobs, want 2", len(jobs))
	}
	w.change(t.Context(), t, "job-1")
	e := f.named("progress")
	r := decode[report.Report](t, []byte(e.data))
	if r.JobID != "job-1" || e.id != r.Version().String() {
		t.Errorf("event %s is of job %s at version %s", e.id, r.JobID, r.Version())
	}
}

func TestAClientThatComesBackGetsWhatItMissedAndNoSnapshot(t *testing.T) {
	w := withJobs(t, 2)
	_, s := w.server(t)
	for range 3 {
		w.change(t.Context(), t, "job-0")
	}
	for _, how := range []struct{ query, header string }{
		{"", fmt.Sprintf("%d-2", epoch)}, {fmt.Sprintf("?last_event_id=%d-2", epoch), ""},
	} {
		f := follow(t, s.URL, how.query, how.header)
		for seq := 3; seq <= 5; seq++ {
			e, _ := f.next()
			if e.name == "" {
				e, _ = f.next() // the first block is the retry time
			}
			if want := fmt.Sprintf("%d-%d", epoch, seq); e.id != want || e.name != "progress" {
				t.Errorf("got %s %s, want progress %s", e.name, e.id, want)
			}
		}
	}
}

func TestAnIDThatCannotBeResumedGetsASnapshot(t *testing.T) {
	w := withJobs(t, 1)
	_, s := w.server(t)
	for _, id := range []string{"1-1", "-1", "18446744073709551616-0", "no-version", fmt.Sprintf("%d-999", epoch+1)} {
		f := follow(t, s.URL, "", id)
		f.named("snapshot")
	}
	for range 5000 { // more than are kept
		w.change(t.Context(), t, "job-0")
	}
	follow(t, s.URL, "", fmt.Sprintf("%d-1", epoch)).named("snapshot")
}

func TestAStreamCanBeRestrictedToSomeJobs(t *testing.T) {
	w := withJobs(t, 3)
	_, s := w.server(t)
	f := follow(t, s.URL, "?jobs=job-1,job-none", "")
	first := decode[struct{ Jobs []report.Report }](t, []byte(f.named("snapshot").data)).Jobs
	if len(first) != 1 || first[0].JobID != "job-1" {
		t.Errorf("snapshot has %d jobs", len(first))
	}
	w.change(t.Context(), t, "job-0")
	w.change(t.Context(), t, "job-1")
	if r := decode[report.Report](t, []byte(f.named("progress").data)); r.JobID != "job-1" {
		t.Errorf("got a report of %s", r.JobID)
	}
}

func TestABatchHasAJobAtMostOnceWithItsNewestReport(t *testing.T) {
	w := withJobs(t, 1)
	h, s := w.server(t)
	h.SetStreamLimits(10, 200*time.Millisecond, time.Minute, time.Second)
	f := follow(t, s.URL, "", "")
	f.named("snapshot")
	begin := time.Now()
	for range 400 {
		w.change(t.Context(), t, "job-0")
	}
	events := 0
	for {
		e := f.named("progress")
		events++
		if e.id == fmt.Sprintf("%d-401", epoch) {
			break
		}
	}
	if most := int(time.Since(begin)/(200*time.Millisecond)) + 1; events > most {
		t.Errorf("%d events in %s, want at most %d", events, time.Since(begin), most)
	}
}

func TestASilentStreamSendsTheTime(t *testing.T) {
	w := withJobs(t, 1)
	h, s := w.server(t)
	h.SetStreamLimits(10, time.Millisecond, 20*time.Millisecond, time.Second)
	f := follow(t, s.URL, "", "")
	f.named("snapshot")
	for range 2 {
		e, ok := f.next()
		if want := fmt.Sprintf(`{"time_ms":%d}`, w.clock().UnixMilli()); !ok || e.name != "time" || e.data != want ||
			e.id != "" {
			t.Fatalf("got %+v, want the time %s", e, want)
		}
	}
	w.change(t.Context(), t, "job-0")
	f.named("progress")
}

func TestTooManyStreamsAreRefusedWithATimeToComeBack(t *testing.T) {
	w := withJobs(t, 1)
	h, s := w.server(t)
	h.SetStreamLimits(2, time.Millisecond, time.Minute, time.Second)
	a := follow(t, s.URL, "", "")
	a.named("snapshot")
	follow(t, s.URL, "", "").named("snapshot")
	refused := follow(t, s.URL, "", "")
	p := decode[rest.Problem](t, readAll(t, refused.resp))
	if refused.resp.StatusCode != http.StatusServiceUnavailable || p.Code != "too_many_streams" || !p.Retryable ||
		refused.resp.Header.Get("Retry-After") == "" {
		t.Errorf("got %s, %+v", refused.resp.Status, p)
	}
	a.close()
	eventually(t, func() bool { return h.Streams() == 1 })
	follow(t, s.URL, "", "").named("snapshot")
}

// eventually waits until ok is true; another goroutine makes it true.
func eventually(tb testing.TB, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			tb.Fatal("the condition was not true within 10 s")
		}
	}
}

func TestAShutdownEndsTheStreams(t *testing.T) {
	w := withJobs(t, 1)
	h, err := apihttp.New(t.Context(), apihttp.Options{Reports: reports{w.memory}, Commands: w, Volumes: w, System: w})
	if err != nil {
		t.Fatal(err)
	}
	l, err := apihttp.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := apihttp.NewServer(h, discard())
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	f := follow(t, "http://"+l.Addr().String(), "", "")
	f.named("snapshot")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if e, ok := f.next(); ok {
		t.Errorf("the stream continues with %+v", e)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

// A client that does not read is dropped after the time of one write; the others are not delayed.
func TestASlowClientIsDroppedAndDelaysNoOther(t *testing.T) {
	w := withJobs(t, 50)
	h, s := w.server(t)
	h.SetStreamLimits(10, time.Millisecond, time.Minute, 300*time.Millisecond)
	stuck, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	_ = stuck.(*net.TCPConn).SetReadBuffer(4096)
	fmt.Fprintf(stuck, "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
	eventually(t, func() bool { return h.Streams() == 1 })
	good := follow(t, s.URL, "", "")
	good.named("snapshot")

	ctx, cancel := context.WithCancel(t.Context())
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			w.change(t.Context(), t, job.ID(fmt.Sprintf("job-%d", i%50)))
		}
	})
	seen := 0
	for begin := time.Now(); h.Streams() == 2; seen++ {
		good.named("progress")
		if time.Since(begin) > 20*time.Second {
			t.Fatal("the slow client was not dropped within 20 s")
		}
	}
	good.named("progress")
	cancel()
	writer.Wait()
	if seen < 10 {
		t.Errorf("the other client saw %d events meanwhile", seen)
	}
}

func TestTwoHundredClientsSeeTheSameLastReport(t *testing.T) {
	const clients, changes = 200, 50
	w := withJobs(t, 5)
	h, s := w.server(t)
	h.SetStreamLimits(clients, 10*time.Millisecond, time.Minute, 5*time.Second)
	followers := make([]*follower, clients)
	for i := range followers {
		followers[i] = follow(t, s.URL, "", "")
		followers[i].named("snapshot")
	}
	last := fmt.Sprintf("%d-%d", epoch, 5+changes)
	var readers sync.WaitGroup
	for _, f := range followers {
		readers.Go(func() {
			before := report.Version{}
			for {
				e, ok := f.next()
				v, _ := report.ParseVersion(e.id)
				if !ok || e.name == "progress" && !before.Less(v) {
					t.Errorf("after %s came %+v (%v)", before, e.id, ok)
					return
				}
				before = v
				if e.id == last {
					return
				}
			}
		})
	}
	for i := range changes {
		w.change(t.Context(), t, job.ID(fmt.Sprintf("job-%d", i%5)))
	}
	readers.Wait()
	for _, f := range followers {
		f.close()
	}
	eventually(t, func() bool { return h.Streams() == 0 })
}

func TestAHeadRequestDoesNotOpenAStream(t *testing.T) {
	w := withJobs(t, 1)
	h, _ := w.server(t)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), http.MethodHead, "http://localhost/api/v1/events",
		http.NoBody))
	if rec.Code != http.StatusOK || h.Streams() != 0 {
		t.Errorf("got %d with %d streams open", rec.Code, h.Streams())
	}
}

func TestAStreamThatWantsOneJobIsNotSilentWhileOthersAreBusy(t *testing.T) {
	w := withJobs(t, 2)
	h, s := w.server(t)
	h.SetStreamLimits(10, time.Millisecond, 20*time.Millisecond, time.Second)
	f := follow(t, s.URL, "?jobs=job-1", "")
	f.named("snapshot")
	ctx, stop := context.WithCancel(t.Context())
	busy := make(chan struct{})
	go func() {
		defer close(busy)
		for ctx.Err() == nil {
			w.change(context.WithoutCancel(ctx), t, "job-0")
		}
	}()
	for range 3 {
		f.named("time")
	}
	stop()
	<-busy
}

func TestLastEventIDOfTheHeaderComesBeforeThatOfTheAddress(t *testing.T) {
	w := withJobs(t, 1)
	_, s := w.server(t)
	w.change(t.Context(), t, "job-0")
	w.change(t.Context(), t, "job-0")
	version := func(seq int) string { return fmt.Sprintf("%d-%d", epoch, seq) }
	f := follow(t, s.URL, "?last_event_id="+version(1), version(2))
	if e := f.named("progress"); e.id != version(3) {
		t.Errorf("the stream goes on with %s, want %s: a browser keeps its first address when it connects again", e.id,
			version(3))
	}
	f = follow(t, s.URL, "?last_event_id="+version(1), "")
	if e := f.named("progress"); e.id != version(2) && e.id != version(3) {
		t.Errorf("without the header, the stream goes on with %s", e.id)
	}
}
