package http_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

func client(tb testing.TB, address string) *rest.Client {
	tb.Helper()
	c, err := rest.NewClient(address)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Close)
	return c
}

func TestAClientDoesWhatTheServerOffers(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	c, ctx := client(t, s.URL), t.Context()
	spec := webSpec()
	spec.Targets = []job.Target{{Disk: "disk-2000", URI: "/srv/a"}}
	spec.Options.Bandwidth = 1 << 20
	spec.Options.Quiesce, spec.Options.Adopt, spec.Options.Strict = false, true, true
	o := rest.SubmitOptions{ID: "job-1", IdempotencyKey: "k"}
	r, existing, err := c.Submit(ctx, spec, o)
	if err != nil || existing || r.JobID != "job-1" || r.Status != job.Pending {
		t.Fatalf("submit: %+v %v %v", r.JobID, existing, err)
	}
	if diff := cmp.Diff(spec, w.builders["job-1"].State().Spec); diff != "" {
		t.Errorf("the specification changed on the way (-sent +got):\n%s", diff)
	}
	if _, existing, err := c.Submit(ctx, spec, o); err != nil || !existing {
		t.Errorf("the same again: %v %v", existing, err)
	}
	got, err := c.Job(ctx, "job-1")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Error(diff)
	}
	if err := c.Limit(ctx, "job-1", 1<<20); err != nil || w.builders["job-1"].State().Spec.Options.Bandwidth != 1<<20 {
		t.Error("limit", err)
	}
	if err := c.Command(ctx, "job-1", job.Delete); job.KindOf(err) != job.Conflict ||
		job.NextOf(err) != "Allowed now: cancel" {
		t.Errorf("delete of a job that has not ended: %v (%s)", err, job.NextOf(err))
	}
	if err := c.Command(ctx, "job-1", job.Cancel); err != nil {
		t.Error(err)
	}
	events, err := c.Events(ctx, "job-1")
	if err != nil || len(events) != 3 || events[2].Type != "asked" {
		t.Errorf("events: %+v %v", events, err)
	}
	if err := c.Command(ctx, "job-1", job.Delete); err != nil {
		t.Error(err)
	}
	if _, err := c.Job(ctx, "job-1"); job.KindOf(err) != job.NotFound {
		t.Errorf("a job that was deleted: %v", err)
	}
	if sys, err := c.System(ctx); err != nil || sys.Role != "all" || !sys.VCenter {
		t.Errorf("system: %+v %v", sys, err)
	}
	if p, err := c.Preflight(ctx, spec); err != nil || p.OK || len(p.Checks) != 2 {
		t.Errorf("preflight: %+v %v", p, err)
	}
	n, done := 0.5, int64(10)
	if err := c.Progress(ctx, "job-x", rest.ProgressUpdate{Percent: &n, BytesTransferred: &done}); err != nil {
		t.Error(err)
	}
	if r, err := c.Job(ctx, "job-x"); err != nil || r.Origin != report.External || r.BytesTransferred != 10 {
		t.Errorf("job of another tool: %+v %v", r, err)
	}
}

func TestAClientReadsEveryPageOnce(t *testing.T) {
	w := withJobs(t, 1203)
	_, s := w.server(t)
	for _, o := range []rest.ListOptions{
		{},
		{Sort: "name"},
		{Sort: "-percent"},
		{Status: []job.Status{job.Pending, job.Paused}, VM: "VM-job"},
	} {
		all, err := client(t, s.URL).Jobs(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		ids := map[job.ID]bool{}
		for _, r := range all {
			ids[r.JobID] = true
		}
		if len(all) != 1203 || len(ids) != 1203 {
			t.Errorf("%+v: %d jobs, %d ids", o, len(all), len(ids))
		}
	}
	if all, err := client(t, s.URL).Jobs(t.Context(), rest.ListOptions{VM: "none"}); err != nil || all == nil ||
		len(all) != 0 {
		t.Errorf("got %v %v", all, err)
	}
}

func TestAClientDistinguishesAMissingDaemonFromARefusal(t *testing.T) {
	gone := client(t, "unix:"+filepath.Join(t.TempDir(), "none"))
	if _, err := gone.Job(t.Context(), "job-1"); job.KindOf(err) != job.Unavailable || job.NextOf(err) == "" {
		t.Errorf("got %v", err)
	}
	begin := time.Now()
	if err := gone.Watch(t.Context(), "", func(report.Report) error {
		return nil
	}); job.KindOf(err) != job.Unavailable || time.Since(begin) > 2*time.Second {
		t.Errorf("watch of nothing: %v after %s", err, time.Since(begin))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := gone.Job(ctx, "job-1"); job.KindOf(err) != job.Cancelled {
		t.Errorf("got %v", err)
	}
	for _, bad := range []string{"", "unix:", "127.0.0.1:8081", "ftp://x", "http://"} {
		if _, err := rest.NewClient(bad); job.KindOf(err) != job.Invalid {
			t.Errorf("NewClient(%q): %v", bad, err)
		}
	}
	other := serveFunc(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<html>", http.StatusBadGateway)
	})
	if _, err := client(t, other).Job(t.Context(), "job-1"); job.KindOf(err) != job.Unavailable {
		t.Errorf("another server: %v", err)
	}
}

// serveFunc serves a function on a loopback port.
func serveFunc(tb testing.TB, f http.HandlerFunc) string {
	tb.Helper()
	l, err := (&net.ListenConfig{}).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &http.Server{Handler: f, ReadHeaderTimeout: time.Second}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	tb.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}

// The connection is cut several times: the client still sees each job's reports in order, and the last one.
func TestAWatchComesBackAndMissesNoEnd(t *testing.T) {
	w := withJobs(t, 3)
	h, err := apihttp.New(t.Context(), apihttp.Options{Reports: reports{w.memory}, Commands: w, Volumes: w, System: w})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	h.SetStreamLimits(100, time.Millisecond, time.Minute, time.Second)
	var cuts atomic.Int32
	base := serveFunc(t, func(rw http.ResponseWriter, r *http.Request) {
		n := cuts.Add(1)
		if n > 3 {
			h.ServeHTTP(rw, r)
			return
		}
		if n == 2 {
			http.Error(rw, "unavailable for a moment", http.StatusServiceUnavailable)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
		defer cancel()
		h.ServeHTTP(rw, r.WithContext(ctx))
	})
	last := map[job.ID]report.Version{}
	end := errors.New("seen")
	go func() { // jobs change while the client is not connected
		eventually(t, func() bool { return cuts.Load() >= 2 })
		for i := range 30 {
			if i == 20 {
				eventually(t, func() bool { return cuts.Load() >= 4 })
			}
			w.change(t.Context(), t, job.ID(fmt.Sprintf("job-%d", i%3)))
		}
	}()
	err = client(t, base).Watch(t.Context(), "", func(r report.Report) error {
		if v := last[r.JobID]; !v.Less(r.Version()) {
			t.Errorf("%s: %s after %s", r.JobID, r.Version(), v)
		}
		last[r.JobID] = r.Version()
		if r.Version() == (report.Version{Epoch: epoch, Seq: 33}) {
			return end
		}
		return nil
	})
	if !errors.Is(err, end) {
		t.Errorf("watch ended with %v", err)
	}
	if cuts.Load() < 4 {
		t.Errorf("%d connections, want at least 4", cuts.Load())
	}
}

func TestAWatchEndsWithItsContext(t *testing.T) {
	w := withJobs(t, 1)
	_, s := w.server(t)
	ctx, cancel := context.WithCancel(t.Context())
	seen := 0
	err := client(t, s.URL).Watch(ctx, "", func(report.Report) error {
		seen++
		cancel()
		return nil
	}, "job-0")
	if job.KindOf(err) != job.Cancelled || seen != 1 {
		t.Errorf("%v after %d reports", err, seen)
	}
}

func TestAClientWorksOverAUnixSocketUnderAnyName(t *testing.T) {
	w := withJobs(t, 1)
	h, _ := w.server(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := apihttp.Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	server := apihttp.NewServer(h, discard())
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	if r, err := client(t, "unix:"+path).Job(t.Context(), "job-0"); err != nil || r.JobID != "job-0" {
		t.Errorf("%v %v", r.JobID, err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	<-served
}

func TestSpeedsOfTheLastMinutesAreKept(t *testing.T) {
	w := newWorld()
	_, s := w.server(t)
	w.running(t, "job-web")
	c := client(t, s.URL)
	var got rest.Throughput
	eventually(t, func() bool {
		var err error
		got, err = c.Throughput(t.Context(), "job-web", time.Hour)
		return err == nil && len(got.Samples) >= 1
	})
	if !slices.IsSortedFunc(got.Samples, func(a, b rest.Sample) int { return a.At.Compare(b.At) }) {
		t.Errorf("samples out of order: %+v", got.Samples)
	}
	w.pass(time.Hour)
	if got, err := c.Throughput(t.Context(), "job-web", time.Minute); err != nil || len(got.Samples) != 0 {
		t.Errorf("old samples: %+v %v", got, err)
	}
}

// If the first report is late, the answer still says that the job is queued: the job is durable.
func TestAJobIsAnsweredEvenIfItsFirstReportIsLate(t *testing.T) {
	w := newWorld()
	_, s := w.server(t, func(o *apihttp.Options) { o.Reports = reports{store.NewMemory()} })
	c := client(t, s.URL)
	r, _, err := c.Submit(t.Context(), webSpec(), rest.SubmitOptions{ID: "job-late", IdempotencyKey: "k"})
	if err != nil || r.JobID != "job-late" || r.Status != job.Pending || r.Phase != job.Queued ||
		r.Version() != (report.Version{}) {
		t.Errorf("got %+v %v", r, err)
	}
	if _, _, err := c.Submit(t.Context(), webSpec(),
		rest.SubmitOptions{ID: "job-late", IdempotencyKey: "k"}); job.KindOf(err) != job.NotFound {
		t.Errorf("the same key after the job was deleted: %v", err)
	}
}

func TestAClientKnowsTheDaemonsTime(t *testing.T) {
	w := withJobs(t, 1)
	h, s := w.server(t)
	h.SetStreamLimits(10, time.Millisecond, 20*time.Millisecond, time.Second)
	c := client(t, s.URL)
	if _, ok := c.Time(); ok {
		t.Error("a time before the first answer")
	}
	near := func() bool {
		now, ok := c.Time() // the daemon's clock is years away from ours
		d := now.Sub(w.clock())
		return ok && d > -time.Second && d < 30*time.Second
	}
	if _, err := c.Job(t.Context(), "job-0"); err != nil || !near() {
		t.Errorf("after an answer: %v, near %v", err, near())
	}
	w.pass(time.Hour)
	if near() {
		t.Error("the clock of the daemon was set, and the client knows before it heard of it")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = c.Watch(ctx, "", func(report.Report) error { return nil })
	}()
	w.pass(time.Hour) // its answer may have the time from before or after this: the heartbeats have it
	for tick := time.NewTicker(time.Millisecond); !near(); <-tick.C {
		if t.Context().Err() != nil {
			t.Fatal("no heartbeat told the time")
		}
	}
	if ago, ok := c.Heard(); !ok || ago < 0 || ago > time.Minute {
		t.Errorf("heard %v ago, %v", ago, ok)
	}
	cancel()
	<-over
}

func TestOnlyTheVersionThatTheClientHasIsNotSentAgain(t *testing.T) {
	w := withJobs(t, 1)
	_, s := w.server(t)
	tag := fmt.Sprintf(`"%d-1"`, epoch)
	for header, want := range map[string]int{
		tag: http.StatusNotModified, "W/" + tag: http.StatusNotModified, `"x", ` + tag: http.StatusNotModified,
		"*": http.StatusNotModified, `"x"`: http.StatusOK, fmt.Sprintf(`"%d-2"`, epoch): http.StatusOK,
		`"1-1"`: http.StatusOK, "": http.StatusOK,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/v1/jobs/job-0", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("If-None-Match", header)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("If-None-Match: %s: %d, want %d", header, resp.StatusCode, want)
		}
	}
}
