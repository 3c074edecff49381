package report_test

import (
	"encoding/json"
	"maps"
	"math"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// waiting follows a job as the Aggregator does: it makes a report each second.
type waiting struct {
	t   *testing.T
	b   *report.Builder
	st  job.State
	now time.Time
}

func (w *waiting) apply(events ...job.Event) {
	w.t.Helper()
	w.st = apply(w.t, w.st, w.b, w.now, events...)
	w.b.Report(w.now, false)
}

func (w *waiting) pass(d time.Duration, each func(second int)) report.Report {
	w.t.Helper()
	for i := range int(d / time.Second) {
		w.now = w.now.Add(time.Second)
		if each != nil {
			each(i)
		}
		w.b.Report(w.now, false)
	}
	return w.b.Report(w.now, false)
}

// newWaiting is a job that copies two disks.
func newWaiting(t *testing.T) *waiting {
	t.Helper()
	start := time.Unix(1e9, 0)
	st := runningTwo(t, start)
	w := &waiting{t: t, b: report.NewBuilder(st, nil), st: st, now: start}
	w.b.Report(start, false)
	return w
}

// waited is what the newest phase of that name waited for, in seconds.
func waited(t *testing.T, r report.Report, name job.Phase) map[report.WaitedFor]float64 {
	t.Helper()
	out := map[report.WaitedFor]float64{}
	for _, p := range r.Phases {
		if p.Name != name {
			continue
		}
		sum, before := 0.0, math.Inf(1)
		clear(out)
		for _, w := range p.Waits {
			out[w.For] = w.Seconds
			sum += w.Seconds
			if w.Seconds > before {
				t.Errorf("the waits are not in order: %+v", p.Waits)
			}
			before = w.Seconds
		}
		if math.Abs(sum-p.WaitedSeconds) > 0.01 {
			t.Errorf("the waits are %+v, and together %v s", p.Waits, p.WaitedSeconds)
		}
	}
	return out
}

func wantWaits(t *testing.T, r report.Report, name job.Phase, want map[report.WaitedFor]float64) {
	t.Helper()
	got := waited(t, r, name)
	if !maps.EqualFunc(want, got, func(a, b float64) bool { return math.Abs(a-b) < 0.6 }) {
		t.Errorf("%s waited for %v, want %v", name, got, want)
	}
}

func TestAPhaseTellsWhatItWaitedForAndForHowLong(t *testing.T) {
	start := time.Unix(1e9, 0)
	spec, err := job.Spec{VM: "web", Options: job.Options{Cutover: job.CutoverManual}}.Normal()
	if err != nil {
		t.Fatal(err)
	}
	st, _, err := job.State{}.Apply(job.Submitted{ID: "job-1", Spec: spec}, start)
	if err != nil {
		t.Fatal(err)
	}
	w := &waiting{t: t, b: report.NewBuilder(st, nil), st: st, now: start}
	w.b.Report(start, false)
	w.pass(90*time.Second, nil)
	w.apply(job.Admitted{})
	disks := twoDisks()
	w.pass(2*time.Second, nil)
	w.apply(job.Inspected{VM: job.VM{Name: "web", Disks: disks}, Targets: []job.Target{
		{Disk: "disk-2000", URI: "/t/a"}, {Disk: "disk-2001", URI: "/t/b"},
	}}, job.CBTReady{})
	w.pass(5*time.Second, nil)
	w.apply(job.StepFailed{
		Phase: job.Snapshot, Kind: job.Unavailable, Message: "no answer", What: job.PeerVCenter, Since: w.now,
	})
	w.pass(40*time.Second, nil)
	w.apply(job.SnapshotTaken{Snapshot: job.VMSnapshot{Ref: "snapshot-1", Disks: disks}})
	w.pass(time.Second, nil)
	w.apply(job.StepFailed{Phase: job.Connect, Kind: job.IO, Message: "odd"})
	r := w.pass(3*time.Second, nil)
	wantWaits(t, r, job.Queued, map[report.WaitedFor]float64{report.ForTurn: 90})
	wantWaits(t, r, job.Preflight, nil)
	wantWaits(t, r, job.Snapshot, map[report.WaitedFor]float64{report.ForVCenter: 40})
	wantWaits(t, r, job.Connect, map[report.WaitedFor]float64{report.ForRetry: 3})
	for _, p := range r.Phases {
		if p.Name == job.Snapshot && (p.DurationSeconds == nil || *p.DurationSeconds != 45) {
			t.Errorf("the snapshot took %v", p.DurationSeconds)
		}
	}
}

func TestWaitsOfTheDisksAreMeansOverThoseThatHaveSomethingLeft(t *testing.T) {
	w := newWaiting(t)
	moved := map[job.DiskID]job.Counters{}
	// One disk has no permit for 20 s; the other copies, and waits for a bandwidth limit for half of the time.
	copies := func(d job.DiskID, throttled time.Duration) {
		c := moved[d]
		c.Transferred += mib
		c.Requests++
		c.ThrottleWait += throttled
		moved[d] = c
		p := onDisk(d, 1, c)
		p.At = w.now
		w.b.Observe(p, w.now)
	}
	w.pass(20*time.Second, func(int) {
		p := onDisk("disk-2001", 1, job.Counters{})
		p.WaitsFor = "disks_per_host"
		w.b.Observe(p, w.now)
		copies("disk-2000", 500*time.Millisecond)
	})
	r := w.pass(20*time.Second, func(int) { copies("disk-2001", 0); copies("disk-2000", 500*time.Millisecond) })
	got := waited(t, r, job.Transfer)
	if permit, limit := got[report.ForPermit], got[report.ForLimit]; len(got) != 2 || permit < 9 || permit > 11 ||
		limit < 8 || limit > 11 {
		t.Errorf("it waited for %v", got)
	}
	w.apply(job.AttemptFailed{
		Disk: "disk-2000", Attempt: 1, Counters: moved["disk-2000"], Kind: job.Unavailable,
		Message: "gone", What: job.PeerHost, Since: w.now,
	})
	r = w.pass(30*time.Second, func(int) { copies("disk-2001", 0) })
	if host := waited(t, r, job.Transfer)[report.ForHost]; host < 14 || host > 16 {
		t.Errorf("it waited for the host for %v s", host)
	}
	w.apply(job.CommandReceived{Verb: job.Pause})
	r = w.pass(300*time.Second, nil)
	if pause := waited(t, r, job.Transfer)[report.ForResume]; pause != 300 {
		t.Errorf("it was paused for %v s", pause)
	}
	if p := r.Phases[len(r.Phases)-1]; p.WaitedSeconds > 370 || p.Waits[0].For != report.ForResume {
		t.Errorf("together %+v", p)
	}
}

func TestWaitsAreKeptOverARestartAndTheTimeWithoutADaemonIsOne(t *testing.T) {
	for name, c := range map[string]struct {
		paused bool
		want   map[report.WaitedFor]float64
	}{
		"it copied":     {false, map[report.WaitedFor]float64{report.ForResume: 60, report.ForDaemon: 600}},
		"it was paused": {true, map[report.WaitedFor]float64{report.ForResume: 660}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWaiting(t)
			w.pass(time.Second, nil)
			w.apply(job.CommandReceived{Verb: job.Pause})
			last := w.pass(60*time.Second, nil)
			if !c.paused {
				w.apply(job.AttemptFailed{Disk: "disk-2000", Attempt: 1, Kind: job.Cancelled},
					job.AttemptFailed{Disk: "disk-2001", Attempt: 1, Kind: job.Cancelled},
					job.CommandReceived{Verb: job.Resume})
				last = w.b.Report(w.now, false)
			}
			text, err := json.Marshal(last)
			if err != nil {
				t.Fatal(err)
			}
			last = report.Report{}
			if err := json.Unmarshal(text, &last); err != nil {
				t.Fatal(err)
			}
			w.now = w.now.Add(10 * time.Minute)
			w.b = report.NewBuilder(w.st, &last)
			wantWaits(t, w.b.Report(w.now, false), job.Transfer, c.want)
			wantWaits(t, w.pass(5*time.Second, nil), job.Queued, nil)
		})
	}
}

func TestNoWaitIsNegativeWhenTheClockGoesBack(t *testing.T) {
	w := newWaiting(t)
	w.now = w.now.Add(-time.Hour)
	phases := w.b.Report(w.now, false).Phases // the last one began in an hour
	w.apply(job.CommandReceived{Verb: job.Pause})
	phases = append(phases, w.pass(10*time.Second, nil).Phases...)
	for _, p := range phases {
		if p.WaitedSeconds < 0 {
			t.Errorf("%s waited for %v s", p.Name, p.WaitedSeconds)
		}
	}
}

func TestAReportOfAVersionThatDidNotCountWaitsLoadsAndHasNone(t *testing.T) {
	w := newWaiting(t)
	last := w.pass(time.Second, nil)
	for i := range last.Phases {
		last.Phases[i].Waits, last.Phases[i].WaitedSeconds = nil, 0
	}
	text, err := json.Marshal(last.Phases[0])
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil || got["waits"] != nil || got["waited_seconds"] != nil {
		t.Errorf("a phase without waits is %s", text)
	}
	r := report.NewBuilder(w.st, &last).Report(w.now, false)
	if diff := cmp.Diff(last.Phases, r.Phases); diff != "" {
		t.Errorf("after the upgrade: %s", diff)
	}
}
