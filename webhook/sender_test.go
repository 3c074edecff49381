package webhook_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/webhook"
)

const secret = "correct horse battery staple"

// receiver is a server that notes what it gets.
type receiver struct {
	*httptest.Server
	t       *testing.T
	mu      sync.Mutex
	got     []webhook.Delivery
	answers []func(w http.ResponseWriter) // of the next requests; then 204
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // the sender has given up
	}
	signature := req.Header.Get("Vmferry-Signature")
	var seconds int64
	if _, err := fmt.Sscanf(signature, "t=%d,", &seconds); err != nil ||
		signature != webhook.Sign([]byte(secret), time.Unix(seconds, 0), body) {
		r.t.Errorf("the signature %q is not that of the body", signature)
	}
	var d webhook.Delivery
	if err := json.Unmarshal(body, &d); err != nil || d.ID != req.Header.Get("Vmferry-Delivery") ||
		string(d.Event) != req.Header.Get("Vmferry-Event") {
		r.t.Errorf("headers and body differ: %v %s", req.Header, body)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) > 0 {
		answer := r.answers[0]
		r.answers = r.answers[1:]
		answer(w)
		return
	}
	r.got = append(r.got, d)
	w.WriteHeader(http.StatusNoContent)
}

func (r *receiver) taken() []webhook.Delivery {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]webhook.Delivery{}, r.got...)
}

// daemon runs a Sender over changes that the test makes.
type daemon struct {
	*webhook.Sender
	changes chan report.Change
	stop    func()
}

func run(t *testing.T, path string, snapshot []*report.Report, urls ...string) *daemon {
	t.Helper()
	file := filepath.Join(filepath.Dir(path), "secret")
	if err := os.WriteFile(file, []byte(secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var hooks []webhook.Hook
	for _, u := range urls {
		hooks = append(hooks, webhook.Hook{URL: u, Events: webhook.Events(), SecretFile: file})
	}
	d := &daemon{
		Sender:  webhook.New(path, nbd.WriteDurably, hooks, slog.New(slog.DiscardHandler), time.Now),
		changes: make(chan report.Change, 10_000),
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Run(ctx, webhook.Follow{Snapshot: snapshot, Next: d.next})
	}()
	d.stop = func() {
		cancel()
		<-done
	}
	return d
}

func (d *daemon) next(ctx context.Context) ([]report.Change, error) {
	select {
	case c := <-d.changes:
		out := []report.Change{c}
		for len(d.changes) > 0 {
			out = append(out, <-d.changes)
		}
		return out, nil
	case <-ctx.Done():
		return nil, errors.New("the end")
	}
}

func (d *daemon) reports(rs ...*report.Report) {
	for _, r := range rs {
		d.changes <- report.Change{Report: r}
	}
}

func jobIn(id job.ID, status job.Status, round int) *report.Report {
	at := time.Unix(1_800_000_000, 0).UTC()
	r := &report.Report{
		JobID: id, Status: status, Round: round, CreatedAt: at, ObservedAt: at.Add(time.Hour), Origin: report.Own,
		VM: report.VM{Name: "web"},
	}
	if status.Terminal() {
		r.EndedAt = &r.ObservedAt
	}
	return r
}

// eventually waits until another goroutine has made ok true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(time.Minute)
	for !ok() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("not within a minute: " + what)
		}
	}
}

func events(ds []webhook.Delivery) string {
	var out []string
	for _, d := range ds {
		out = append(out, fmt.Sprintf("%s:%s", d.JobID, d.Event))
	}
	return strings.Join(out, " ")
}

func TestEachEventIsToldOnceAndOnlyThatOfJobsOfThisNode(t *testing.T) {
	path, r := filepath.Join(t.TempDir(), "webhooks.json"), newReceiver(t)
	d := run(t, path, []*report.Report{jobIn("before", job.StatusFailed, 1)}, r.URL)
	defer d.stop()
	foreign := jobIn("foreign", job.StatusFailed, 0)
	foreign.Origin = report.External
	failed := jobIn("b", job.StatusFailed, 1)
	failed.Error = &report.Error{Code: job.NoSpace, Message: "the target is full"}
	again := jobIn("b", job.StatusFailed, 2)
	again.EndedAt = new(again.EndedAt.Add(time.Hour))
	d.reports(
		jobIn("a", job.Running, 1), jobIn("a", job.WaitingCutover, 1), jobIn("a", job.WaitingCutover, 1), foreign,
		failed,
		jobIn("b", job.Running, 2), again, jobIn("a", job.WaitingCutover, 2), jobIn("a", job.StatusCompleted, 3),
		jobIn("c", job.StatusCancelled, 1),
	)
	const want = "a:waiting_cutover b:failed b:failed a:waiting_cutover a:completed"
	eventually(t, want, func() bool { return len(r.taken()) >= 5 })
	if got := events(r.taken()); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	ids := map[string]bool{}
	for _, d := range r.taken() {
		ids[d.ID] = true
	}
	if e := r.taken()[1].Error; len(ids) != 5 || e == nil || e.Code != job.NoSpace {
		t.Errorf("%d ids, error %+v", len(ids), e)
	}
}

func TestAReceiverThatFailsOrRedirectsIsAskedAgainAndTheOthersDoNotWait(t *testing.T) {
	path, bad, good, elsewhere := filepath.Join(t.TempDir(), "webhooks.json"), newReceiver(t), newReceiver(t),
		newReceiver(t)
	hang := make(chan struct{})
	bad.answers = []func(w http.ResponseWriter){
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		func(w http.ResponseWriter) {
			w.Header().Set("Location", elsewhere.URL)
			w.WriteHeader(http.StatusTemporaryRedirect)
		},
	}
	stuck := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-hang:
		case <-req.Context().Done():
		}
	}))
	defer stuck.Close()
	defer close(hang)
	d := run(t, path, nil, bad.URL+"/hook?token=x", good.URL, stuck.URL)
	defer d.stop()
	d.reports(jobIn("a", job.StatusFailed, 1), jobIn("b", job.StatusFailed, 1))
	eventually(t, "the good one has both", func() bool { return len(good.taken()) == 2 })
	eventually(t, "the bad one has both", func() bool { return len(bad.taken()) == 2 })
	if got := events(bad.taken()); got != "a:failed b:failed" || len(elsewhere.taken()) > 0 {
		t.Errorf("got %s, and elsewhere %s", got, events(elsewhere.taken()))
	}
	eventually(t, "the bad one is well again", func() bool {
		h := d.Health()[0]
		return h.Failed == 2 && h.Sent == 2 && h.Pending == 0 && h.Message == ""
	})
	if u := d.Health()[0].URL; strings.Contains(u, "token") {
		t.Errorf("the address is shown as %s", u)
	}
	if h := d.Health()[2]; h.Pending != 2 {
		t.Errorf("%d wait for the one that hangs", h.Pending)
	}
}

func TestARestartTellsWhatWasNotToldAndNothingTwice(t *testing.T) {
	dir := t.TempDir()
	path, r := filepath.Join(dir, "webhooks.json"), newReceiver(t)
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	url := away.URL // nothing listens
	d := run(t, path, nil, url, r.URL)
	first := []*report.Report{jobIn("a", job.WaitingCutover, 1), jobIn("b", job.StatusFailed, 1)}
	d.reports(first...)
	eventually(t, "the other has both", func() bool { return len(r.taken()) == 2 })
	eventually(t, "the file knows that", func() bool {
		return d.Health()[1].Pending == 0 && d.Health()[0].Pending == 2
	})
	d.stop()
	// the first job went on while no hook was told
	d = run(t, path, []*report.Report{jobIn("a", job.StatusCompleted, 2), first[1]}, url, r.URL)
	defer d.stop()
	eventually(t, "the completion is told", func() bool { return len(r.taken()) == 3 })
	if got := events(r.taken()); got != "a:waiting_cutover b:failed a:completed" {
		t.Errorf("got %s", got)
	}
	if n := d.Health()[0].Pending; n != 3 {
		t.Errorf("%d wait for the one that is away, want 3", n)
	}
}

func TestAFileThatIsDamagedOrGoneDoesNotTellOldNews(t *testing.T) {
	path, r := filepath.Join(t.TempDir(), "webhooks.json"), newReceiver(t)
	if err := os.WriteFile(path, []byte(`{"x":`), 0o600); err != nil {
		t.Fatal(err)
	}
	d := run(t, path, []*report.Report{jobIn("a", job.StatusFailed, 1)}, r.URL)
	defer d.stop()
	d.reports(jobIn("a", job.StatusFailed, 1), jobIn("b", job.StatusFailed, 1))
	eventually(t, "what is new is told", func() bool { return len(r.taken()) == 1 })
	if got := events(r.taken()); got != "b:failed" {
		t.Errorf("got %s", got)
	}
}

func TestWhatWaitsForAReceiverIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhooks.json")
	synctest.Test(t, func(t *testing.T) {
		d := run(t, path, nil, "http://127.0.0.1:1/") // nothing listens
		for i := range 1100 {
			d.reports(jobIn(job.ID(fmt.Sprint("job-", i)), job.StatusFailed, 1))
		}
		synctest.Wait()
		if h := d.Health()[0]; h.Pending != 1000 || h.Dropped != 100 {
			t.Errorf("%d wait, %d are dropped", h.Pending, h.Dropped)
		}
		d.stop()
	})
}
