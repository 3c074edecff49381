package http_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// endAndDelete cancels a job and deletes it.
func (w *world) endAndDelete(ctx context.Context, tb testing.TB, id job.ID) {
	tb.Helper()
	for _, v := range []job.Verb{job.Cancel, job.Delete} {
		if err := w.Command(ctx, id, job.CommandReceived{Verb: v}); err != nil {
			tb.Fatal(err)
		}
	}
}

func TestAStreamTellsThatAJobWasDeletedAlsoToAClientThatComesBack(t *testing.T) {
	w := withJobs(t, 2)
	_, s := w.server(t)
	f := follow(t, s.URL, "", "")
	f.named("snapshot")
	w.endAndDelete(t.Context(), t, "job-0")
	const deletion = 4 // after two submissions and the cancel
	want := fmt.Sprintf(`{"job_id":"job-0","deleted":true,"epoch":%d,"seq":%d,"deleted_at":"2025-09-25T13:43:00Z"}`,
		int64(epoch), deletion)
	if e := f.named("deleted"); e.data != want || e.id != fmt.Sprintf("%d-%d", epoch, deletion) {
		t.Errorf("got %+v, want %s", e, want)
	}
	late := follow(t, s.URL, "", fmt.Sprintf("%d-2", epoch))
	if e := late.named("deleted"); e.data != want {
		t.Errorf("a client that came back got %s, want %s", e.data, want)
	}
	other := follow(t, s.URL, "?jobs=job-1", fmt.Sprintf("%d-2", epoch))
	w.change(t.Context(), t, "job-1")
	for {
		e, ok := other.next()
		if !ok || e.name == "deleted" {
			t.Fatalf("a client of another job got %+v", e)
		}
		if e.name == "progress" {
			break
		}
	}
}

// The job is deleted while no connection is there, and the daemon has started again since: no deletion can be resumed.
func TestAWatchLearnsFromASnapshotThatAJobIsGone(t *testing.T) {
	w := withJobs(t, 2)
	h, err := apihttp.New(t.Context(), apihttp.Options{Reports: reports{w.memory}, Commands: w, Volumes: w, System: w})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	h.SetStreamLimits(100, time.Millisecond, time.Minute, time.Second)
	var connections atomic.Int32
	base := serveFunc(t, func(rw http.ResponseWriter, r *http.Request) {
		if connections.Add(1) == 1 {
			ctx, cancel := context.WithTimeout(r.Context(), 50*time.Millisecond)
			defer cancel()
			h.ServeHTTP(rw, r.WithContext(ctx))
			w.endAndDelete(t.Context(), t, "job-0")
			return
		}
		r.Header.Set("Last-Event-ID", "1-1") // of another daemon
		h.ServeHTTP(rw, r)
	})
	seen, end := map[job.ID]int{}, errors.New("seen")
	err = client(t, base).WatchChanges(t.Context(), "", func(c report.Change) error {
		if c.Deleted != nil {
			if c.JobID() != "job-0" || seen["job-0"] == 0 {
				t.Errorf("%s is told to be deleted after %v", c.JobID(), seen)
			}
			return end
		}
		seen[c.JobID()]++
		return nil
	})
	if !errors.Is(err, end) {
		t.Errorf("watch ended with %v", err)
	}
}

func TestADeletionIsReadAsItWasWritten(t *testing.T) {
	d := report.Deleted{JobID: "job-1", Epoch: 5, Seq: 7, At: start()}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if got := decode[report.Deleted](t, b); got != d {
		t.Errorf("%+v is read as %+v", d, got)
	}
}
