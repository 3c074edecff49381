package http_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// polled asks a server that answers with f for job-1, and waits for at most so long.
func polled(t *testing.T, f http.HandlerFunc, most time.Duration) (report.Polled, bool, error) {
	t.Helper()
	srv := httptest.NewServer(f)
	defer srv.Close()
	c, err := rest.NewClient(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	return c.Poll(ctx, "job-1")
}

func TestAnAnswerThatIsNotThatOfAVMAIsNotBelieved(t *testing.T) {
	page := strings.Repeat("<p>busy</p>", 10)
	redirected := false
	for name, tc := range map[string]struct {
		f    http.HandlerFunc
		want string
	}{
		"HTML": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = w.Write([]byte(page))
		}, "is not the JSON of a job (text/html)"},
		"a page that is not found": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(page))
		}, "404, but not that of a VMA"},
		"10 MB": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"job_id":"job-1","current_operation":"` + strings.Repeat("x", 10<<20) + `"}`))
		}, "is longer than"},
		"nothing":      {func(http.ResponseWriter, *http.Request) {}, "is empty"},
		"another job":  {says(`{"job_id":"job-2","status":"completed"}`), "is about job job-2"},
		"no job":       {says(`{"status":"completed"}`), "names no job"},
		"a list":       {says(`[]`), "is not the JSON of a job"},
		"half of it":   {says(`{"job_id":"job-1","status":"comp`), "is not the JSON of a job"},
		"less than 0":  {says(`{"job_id":"job-1","bytes_transferred":-1}`), "is negative"},
		"far too much": {says(`{"job_id":"job-1","total_bytes":1e300}`), "too large"},
		"text for a number": {
			says(`{"job_id":"job-1","bytes_transferred":"many"}`), "cannot unmarshal string",
		},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				redirected = true
			}
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}, "a redirect (302), which is not followed"},
		"an error": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
		}, "the VMA answers 500"},
		"a hang": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "deadline exceeded"},
		"a cut": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = w.Write([]byte(`{"job_id"`))
		}, "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			most := time.Minute
			if name == "a hang" {
				most = 100 * time.Millisecond
			}
			_, found, err := polled(t, tc.f, most)
			if found || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("found %t: %v", found, err)
			}
		})
	}
	if redirected {
		t.Error("the redirect was followed")
	}
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(text))
	}
}

func TestAVMAThatDoesNotKnowAJobIsBelieved(t *testing.T) {
	_, found, err := polled(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		says(`{"error":"job not found","job_id":"job-1"}`)(w, r)
	}, time.Minute)
	if found || err != nil {
		t.Errorf("found %t: %v", found, err)
	}
}

func TestTheAnswerOfAnOlderVMAIsReadWhole(t *testing.T) {
	a, found, err := polled(t, says(`{"job_id":"job-1","status":"Streaming","sync_type":"full","phase":"Transfer",
		"percentage":50.5,"current_operation":"copies","bytes_transferred":43253760,"total_bytes":86507520,
		"throughput":{"current_mbps":2},"timing":{"start_time":"2025-09-25T13:42:30Z","last_update":"now"},
		"vm_info":{"name":"web","path":"/DC0/vm/web","cbt_enabled":true},"errors":["one",7],"last_error":null,
		"disk_progresses":[{"disk_id":"disk-2000","label":"Hard disk 1","bytes_transferred":1,"total_bytes":2,
		"throughput_mbps":0.5,"status":"in_progress"}],"more":{"to":"come"}}`), time.Minute)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	n := func(v int64) *int64 { return &v }
	f := func(v float64) *float64 { return &v }
	want := report.Polled{
		Status: job.Running, Phase: "Transfer", Operation: "copies", SyncType: "full", BytesTransferred: n(43253760),
		TotalBytes: n(86507520), Percent: f(50.5), BytesPerSecond: f(2 << 20),
		StartedAt: time.Date(2025, 9, 25, 13, 42, 30, 0, time.UTC), Error: "one",
		VM: report.VM{Name: "web", Path: "/DC0/vm/web", CBTEnabled: true},
		Disks: []report.PolledDisk{{
			ID: "disk-2000", Label: "Hard disk 1", Status: "in_progress", BytesTransferred: n(1), TotalBytes: n(2),
			BytesPerSecond: f(1 << 19),
		}},
	}
	if d := cmp.Diff(want, a); d != "" {
		t.Error(d)
	}
}

// TestOurOwnCompatibilityRouteIsReadAsThatOfAnOlderVMA polls a daemon of ours.
func TestOurOwnCompatibilityRouteIsReadAsThatOfAnOlderVMA(t *testing.T) {
	w := newWorld()
	_, srv := w.server(t)
	c, err := rest.NewClient(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	done, total := int64(400), int64(1000)
	if err := c.Progress(t.Context(), "job-1", rest.ProgressUpdate{
		Stage: "Transfer", Status: "in_progress", BytesTransferred: &done, TotalBytes: &total,
	}); err != nil {
		t.Fatal(err)
	}
	a, found, err := c.Poll(t.Context(), "job-1")
	if err != nil || !found || a.Status != job.Running || *a.BytesTransferred != done || *a.TotalBytes != total {
		t.Errorf("found %t, %+v: %v", found, a, err)
	}
	if _, found, err := c.Poll(t.Context(), "job-2"); found || err != nil {
		t.Errorf("found %t: %v", found, err)
	}
}

func TestATokenGoesOnlyToTheDaemonThatIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("vmf_secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var got []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.URL.Path+" "+r.Header.Get("Authorization"))
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	c, err := rest.NewClient(srv.URL, rest.WithTokenFile(file))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.System(t.Context()); job.KindOf(err) != job.Corrupt || strings.Contains(err.Error(), "secret") {
		t.Errorf("a redirect is %v", err)
	}
	if d := cmp.Diff([]string{"/api/v1/system Bearer vmf_secret"}, got); d != "" {
		t.Error(d)
	}
	if err := os.WriteFile(file, []byte("vmf_next\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, _ = c.System(t.Context())
	if want := "/api/v1/system Bearer vmf_next"; got[len(got)-1] != want {
		t.Errorf("a token that was replaced: %q, want %q", got[len(got)-1], want)
	}
	if _, err := rest.NewClient("http://192.0.2.1", rest.WithTokenFile(file)); job.KindOf(err) != job.Invalid {
		t.Errorf("a token in clear: %v", err)
	}
}
