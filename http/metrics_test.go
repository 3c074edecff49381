package http_test

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// fullWorld publishes a job whose report has everything that a series is made of.
func fullWorld(tb testing.TB) (w *world, text string) {
	tb.Helper()
	w = newWorld()
	w.running(tb, "job-web")
	r, err := w.memory.Report(tb.Context(), "job-web")
	if err != nil {
		tb.Fatal(err)
	}
	at, eta, speed := start().Add(-time.Hour), int64(60), 5.0*mib
	r.Wait = &report.Wait{For: "vcenter", Since: at}
	r.Snapshot = &report.Snapshot{Name: "s", TakenAt: at}
	r.SampledAt, r.BytesPerSecond, r.BytesPerSecondAverage, r.ETASeconds = &at, &speed, &speed, &eta
	r.Health = []report.Health{report.Silent, report.Unavailable}
	r.Disks = append([]report.Disk{}, r.Disks...)
	d := &r.Disks[0]
	d.SilentSince, d.BytesPerSecond, d.ETASeconds, d.BytesDurable, d.BytesVerified = &at, &speed, &eta, 7, 9
	w.publish(tb.Context(), r)
	w.down = true
	_, s := w.server(tb)
	return w, string(fetch(tb, s.URL+"/metrics"))
}

// value is that of a series; false if there is none.
func value(text, series string) (string, bool) {
	for line := range strings.Lines(text) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

func TestTheNamesOfMetricsAreAsPrometheusWantsThem(t *testing.T) {
	_, text := fullWorld(t)
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestEveryNameInAnAlertIsServed(t *testing.T) {
	_, text := fullWorld(t)
	rules, err := os.ReadFile("../deploy/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\bvmferry_[a-z_]+`).FindAllString(string(rules), -1)
	if len(names) < 10 {
		t.Fatalf("only %d names", len(names))
	}
	for _, n := range names {
		if !strings.Contains(text, "# TYPE "+n+" ") {
			t.Errorf("%s is not served", n)
		}
	}
}

func TestMetricsSayWhatAJobWaitsForAndHowOldThingsAre(t *testing.T) {
	_, text := fullWorld(t)
	at := fmt.Sprintf("%.9g", float64(start().Add(-time.Hour).Unix()))
	for series, want := range map[string]string{
		`vmferry_job_speed_bytes_per_second{job="job-web"}`:                           "5.24288e+06",
		`vmferry_job_average_speed_bytes_per_second{job="job-web"}`:                   "5.24288e+06",
		`vmferry_job_eta_seconds{job="job-web"}`:                                      "60",
		`vmferry_job_durable_bytes{job="job-web"}`:                                    "7",
		`vmferry_disk_durable_bytes{disk="disk-2000",job="job-web"}`:                  "7",
		`vmferry_disk_verified_bytes{disk="disk-2000",job="job-web"}`:                 "9",
		`vmferry_disk_speed_bytes_per_second{disk="disk-2000",job="job-web"}`:         "5.24288e+06",
		`vmferry_job_waiting_since_timestamp_seconds{for="vcenter",job="job-web"}`:    at,
		`vmferry_job_snapshot_timestamp_seconds{job="job-web"}`:                       at,
		`vmferry_job_silent_since_timestamp_seconds{job="job-web"}`:                   at,
		`vmferry_disk_silent_since_timestamp_seconds{disk="disk-2000",job="job-web"}`: at,
		`vmferry_jobs_by_health{flag="silent"}`:                                       "1",
		`vmferry_jobs_by_health{flag="stalled"}`:                                      "0",
		`vmferry_jobs_by_phase{phase="transfer"}`:                                     "1",
		`vmferry_jobs_by_phase{phase="waiting"}`:                                      "0",
		`vmferry_jobs{status="running"}`:                                              "1",
		`vmferry_jobs{status="failed"}`:                                               "0",
		`vmferry_external_jobs{status="running"}`:                                     "0",
		`vmferry_restarts_total{kind="timeout"}`:                                      "0",
		`vmferry_disks{status="failed"}`:                                              "0",
		`vmferry_vcenter_up`:                                                          "1",
		`vmferry_vcenter_state{state="wrong_password"}`:                               "0",
		`vmferry_sink_up{sink="redis"}`:                                               "0",
	} {
		got, ok := value(text, series)
		if !ok || got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
	if got, _ := value(text, "vmferry_limit_jobs"); got != fmt.Sprint(job.StandardLimits().Jobs) {
		t.Errorf("the limit of jobs is %q", got)
	}
	for _, s := range words(t, "JobStatus") {
		if _, ok := value(text, `vmferry_jobs{status="`+s+`"}`); !ok {
			t.Errorf("no count of jobs that are %s", s)
		}
	}
}

func words(tb testing.TB, schema string) (out []string) {
	tb.Helper()
	_, base := goldenWorld(tb)
	for _, v := range loadDescription(tb, base).Components.Schemas[schema].Value.Enum {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

// A job has series of its own until some time after its end. Jobs of other tools are only counted.
func TestTheNumberOfSeriesDoesNotGrowWithTheHistory(t *testing.T) {
	w := newWorld()
	w.running(t, "job-web")
	_, s := w.server(t)
	r, err := w.memory.Report(t.Context(), "job-web")
	if err != nil {
		t.Fatal(err)
	}
	before := bytes.Count(fetch(t, s.URL+"/metrics"), []byte("\n"))
	long := w.clock().Add(-time.Hour)
	for i := range 200 {
		old := r
		old.JobID, old.Status, old.EndedAt = job.ID(fmt.Sprintf("old-%d", i)), job.StatusCompleted, &long
		old.Phases = nil
		w.publish(t.Context(), old)
		other := r
		other.JobID, other.Origin, other.Phases = job.ID(fmt.Sprintf("other-%d", i)), report.External, nil
		w.publish(t.Context(), other)
	}
	text := fetch(t, s.URL+"/metrics")
	if after := bytes.Count(text, []byte("\n")); after > before+10 {
		t.Errorf("%d lines with 400 old and external jobs, %d without", after, before)
	}
	for series, want := range map[string]string{
		`vmferry_jobs{status="completed"}`: "200", `vmferry_external_jobs{status="running"}`: "200",
	} {
		if got, _ := value(string(text), series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
	just := r
	now := w.clock()
	just.JobID, just.Status, just.EndedAt = "just", job.StatusFailed, &now
	w.publish(t.Context(), just)
	if !bytes.Contains(fetch(t, s.URL+"/metrics"), []byte(`job="just"`)) {
		t.Error("a job that has just ended has no series")
	}
}
