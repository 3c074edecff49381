package actors_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
)

// lines are those of a log, as an operator's tool reads them.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// steps are the lines of reported steps.
func (l *lines) steps(t *testing.T) (out []map[string]any) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range bytes.Lines(l.b.Bytes()) {
		m := map[string]any{}
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if m["msg"] == "step" {
			out = append(out, m)
		}
	}
	return out
}

func TestEachReportedStepIsALineOfTheLog(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		l := &lines{}
		log := slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
		w.again(func(d *actors.Deps) { d.Log, d.LogEvery, d.LogAfter = log, 10*time.Second, 50 })
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(4 * time.Minute)
		w.want(id, job.Completed)
		var stages []string
		counted, moved := 0, 0.0
		for _, m := range l.steps(t) {
			if m["job_id"] != string(id) || m["vm"] != "web" {
				t.Errorf("a line of another job: %v", m)
			}
			disk, ofDisk := m["disk"]
			if !ofDisk {
				stages = append(stages, m["stage"].(string))
				continue
			}
			for _, key := range []string{"percent", "bytes_transferred", "total_bytes", "throughput_bps"} {
				if _, ok := m[key].(float64); !ok {
					t.Errorf("%s is %v: %v", key, m[key], m)
				}
			}
			if disk != "disk-2000" || m["bytes_transferred"].(float64) < moved {
				t.Errorf("line %v after %v bytes", m, moved)
			}
			moved = m["bytes_transferred"].(float64)
			if m["level"] == "DEBUG" {
				counted++
			}
		}
		want := []string{
			"queued", "preflight", "cbt", "snapshot", "connect", "transfer", "verify", "commit", "cleanup", "completed",
		}
		if d := cmp.Diff(want, stages); d != "" {
			t.Errorf("stages (-want +got):\n%s", d)
		}
		if counted < 9 || counted > 12 || moved != 100*mib {
			t.Errorf("%d lines with new numbers only in 100 s at one in 10 s, the last with %v bytes", counted, moved)
		}
	})
}

func TestOfJobsFromBeforeTheStartOnlyTheUnfinishedAreLogged(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		done := w.submit("a", job.Options{Verify: job.VerifyNone})
		w.pass(3 * time.Minute)
		w.want(done, job.Completed)
		id := w.submit("b", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		l := &lines{}
		w.again(func(d *actors.Deps) { d.Log = slog.New(slog.NewJSONHandler(l, nil)) })
		w.pass(5 * time.Second)
		var got []string
		for _, m := range l.steps(t) {
			if m["job_id"] == string(done) {
				t.Errorf("a line of a job that ended before: %v", m)
			}
			got = append(got, m["stage"].(string))
		}
		if !slices.Contains(got, "transfer") || slices.Contains(got, "queued") {
			t.Errorf("stages %v", got)
		}
		w.pass(3 * time.Minute)
		w.want(id, job.Completed)
	})
}
