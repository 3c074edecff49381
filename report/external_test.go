package report_test

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

func ptr[T any](v T) *T { return &v }

// tool is a copy tool that posts one update a second.
type tool struct {
	tb      testing.TB
	builder *report.ExternalBuilder
	now     time.Time
}

func newTool(tb testing.TB) *tool {
	tb.Helper()
	now := time.Unix(1e9, 0)
	return &tool{tb, report.NewExternalBuilder("job-x", nil, now), now}
}

func (o *tool) say(u report.Update) bool {
	o.tb.Helper()
	o.now = o.now.Add(time.Second)
	if err := u.Check(); err != nil {
		o.tb.Fatal(err)
	}
	applied, err := o.builder.Apply(u, o.now)
	if err != nil {
		o.tb.Fatal(err)
	}
	return applied
}

func (o *tool) report() report.Report { return o.builder.Report(o.now) }

func TestUpdatesOfOtherToolsMakeReports(t *testing.T) {
	now := time.Unix(1e9, 0)
	n := func(v int64) *int64 { return &v }
	builder := report.NewExternalBuilder("job-x", nil, now)
	say := func(u report.Update) bool {
		now = now.Add(time.Second)
		applied, err := builder.Apply(u, now)
		if err != nil {
			t.Error(err)
		}
		return applied
	}
	disk := func(stage, status string, at int64) report.Update {
		return report.Update{
			Stage: stage, Status: status, DiskID: "disk-2000", BytesTransferred: n(at), TotalBytes: n(1000),
		}
	}
	say(report.Update{Stage: "Creating Snapshot", Status: "in_progress"})
	if r := builder.Report(now); r.Phase != job.Snapshot || *r.Percent != 10 || r.Status != job.Running {
		t.Errorf("got %s %v %s", r.Phase, *r.Percent, r.Status)
	}
	say(disk("Transfer", "IN_PROGRESS", 500))
	if say(disk("Transfer", "in_progress", 400)) {
		t.Error("a late update was taken")
	}
	if r := builder.Report(now); r.BytesTransferred != 500 || *r.Percent != 50 {
		t.Errorf("got %d bytes, %v %%", r.BytesTransferred, *r.Percent)
	}
	say(disk("Transfer", "completed", 1000))
	if r := builder.Report(now); r.Status != job.Running || r.OverallPercent >= 100 ||
		r.Disks[0].Status != job.DiskDone {
		t.Errorf("one disk's end ended the job: %s %v", r.Status, r.OverallPercent)
	}
	say(report.Update{Stage: "Finalize", Status: "Succeeded"})
	if r := builder.Report(now); r.Status != job.StatusCompleted || r.OverallPercent != 100 || r.EndedAt == nil {
		t.Errorf("got %s %v", r.Status, r.OverallPercent)
	}
	if !say(disk("Transfer", "in_progress", 0)) || builder.Report(now).Status != job.Running ||
		builder.Report(now).Disks[0].Attempt != 2 {
		t.Error("a new attempt was not taken")
	}
}

func TestAnExternalJobIsAtAHundredOnlyWhenItIsCompleted(t *testing.T) {
	for name, u := range map[string]report.Update{
		"a percent of 100":      {Status: "running", Percent: ptr(100.0)},
		"all bytes":             {Status: "running", BytesTransferred: ptr(int64(7)), TotalBytes: ptr(int64(7))},
		"more bytes than all":   {Status: "running", BytesTransferred: ptr(int64(9)), TotalBytes: ptr(int64(7))},
		"a stage after the end": {Stage: "Finalize", Status: "in_progress", Percent: ptr(100.0)},
		"all bytes of a disk": {
			Status: "running", DiskID: "disk-2000", BytesTransferred: ptr(int64(7)), TotalBytes: ptr(int64(7)),
		},
		"the end of a disk": {
			Status: "completed", DiskID: "disk-2000", BytesTransferred: ptr(int64(7)), TotalBytes: ptr(int64(7)),
		},
		"a failure": {Status: "failed", Percent: ptr(100.0)},
	} {
		o := newTool(t)
		o.say(u)
		if r := o.report(); *r.Percent >= 100 || r.OverallPercent >= 100 {
			t.Errorf("%s: %v %% and %v %% of a job that is %s", name, *r.Percent, r.OverallPercent, r.Status)
		}
	}
	o := newTool(t)
	o.say(report.Update{Status: "completed"})
	o.say(report.Update{Status: "running", Percent: ptr(40.0)})
	if r := o.report(); r.Status != job.StatusCompleted || r.OverallPercent != 100 {
		t.Errorf("a late update made a completed job %s at %v %%", r.Status, r.OverallPercent)
	}
	o.say(report.Update{Stage: "Transfer", Status: "running", BytesTransferred: ptr(int64(0)), Percent: ptr(4.0)})
	if r := o.report(); r.Status != job.Running || r.OverallPercent >= 5 || r.EndedAt != nil {
		t.Errorf("a new attempt is %s at %v %%", r.Status, r.OverallPercent)
	}
}

func TestNoPercentOfAnExternalJobDecreasesWithinAnAttempt(t *testing.T) {
	o := newTool(t)
	o.say(report.Update{Stage: "Transfer", Status: "running", Percent: ptr(50.0)})
	high := o.report()
	o.say(report.Update{Stage: "Transfer", Status: "running", Percent: ptr(5.0)})
	o.say(report.Update{Status: "running", BytesTransferred: ptr(int64(1)), TotalBytes: ptr(int64(100))})
	if r := o.report(); *r.Percent != 50 || r.OverallPercent != high.OverallPercent {
		t.Errorf("from 50 %% to %v %%, overall from %v %% to %v %%", *r.Percent, high.OverallPercent, r.OverallPercent)
	}
	o.say(report.Update{Stage: "Initializing", Status: "running"})
	if r := o.report(); *r.Percent != 5 || r.OverallPercent > 5 {
		t.Errorf("a new attempt begins at %v %%, overall %v %%", *r.Percent, r.OverallPercent)
	}
}

func TestSumsOverTheDisksOfAnExternalJobEndAtTheGreatestNumber(t *testing.T) {
	o := newTool(t)
	for _, disk := range []string{"disk-2000", "disk-2001"} {
		o.say(report.Update{
			DiskID: disk, Status: "running", ThroughputBPS: ptr(1.7e308), BytesTransferred: ptr(int64(math.MaxInt64)),
			TotalBytes: ptr(int64(math.MaxInt64)),
		})
	}
	r := o.report()
	if r.BytesTransferred != math.MaxInt64 || *r.BytesToTransfer != math.MaxInt64 {
		t.Errorf("sums of %d and %d bytes", r.BytesTransferred, *r.BytesToTransfer)
	}
	if s := report.SpeedOr0(r.BytesPerSecond); s != report.MaxSpeed {
		t.Errorf("a speed of %v", s)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

func TestASilentExternalJobIsStaleAndTheNextUpdateRevivesIt(t *testing.T) {
	o := newTool(t)
	for i := range int64(4) {
		o.say(report.Update{
			DiskID: "disk-2000", Status: "running", BytesTransferred: ptr(i << 20), TotalBytes: ptr(int64(1 << 30)),
		})
	}
	if r := o.report(); len(r.Health) != 0 || r.BytesPerSecond == nil || r.ETASeconds == nil {
		t.Errorf("while its tool posts: %v, %v, %v", r.Health, r.BytesPerSecond, r.ETASeconds)
	}
	o.now = o.now.Add(report.StaleAfter + time.Second)
	r := o.report()
	if !slices.Equal(r.Health, []report.Health{report.Stale}) || r.BytesPerSecond != nil || r.ETASeconds != nil ||
		r.Disks[0].BytesPerSecond != nil || r.BytesPerSecondAverage != nil {
		t.Errorf("after silence: %v, %v, %v", r.Health, r.BytesPerSecond, r.ETASeconds)
	}
	restarted := report.NewExternalBuilder("job-x", &r, o.now)
	if r := restarted.Report(o.now); !slices.Equal(r.Health, []report.Health{report.Stale}) {
		t.Errorf("a restart made a silent job %v", r.Health)
	}
	o.say(report.Update{DiskID: "disk-2000", Status: "running", BytesTransferred: ptr(int64(5 << 20))})
	if r := o.report(); len(r.Health) != 0 || r.BytesPerSecond != nil {
		t.Errorf("after the next update: %v, %v", r.Health, r.BytesPerSecond)
	}
	o.now = o.now.Add(2 * time.Second)
	o.say(report.Update{DiskID: "disk-2000", Status: "running", BytesTransferred: ptr(int64(6 << 20))})
	if r := o.report(); len(r.Health) != 0 || r.BytesPerSecond == nil {
		t.Errorf("after the next update: %v, %v", r.Health, r.BytesPerSecond)
	}
}

func TestACancelledExternalJobGoesOnOnlyWithANewAttempt(t *testing.T) {
	o := newTool(t)
	post := func(n int64) {
		o.say(report.Update{Stage: "Transfer", Status: "running", BytesTransferred: &n, TotalBytes: ptr(int64(1000))})
	}
	post(500)
	if r := o.report(); !slices.Equal(r.Allowed, []job.Verb{job.Cancel, job.Delete}) {
		t.Errorf("a running job allows %v", r.Allowed)
	}
	if err := o.builder.Cancel(o.now); err != nil {
		t.Fatal(err)
	}
	post(600)
	r := o.report()
	if r.Status != job.StatusCancelled || r.EndedAt == nil || r.BytesTransferred != 500 ||
		!slices.Equal(r.Allowed, []job.Verb{job.Delete}) || len(r.Notes) != 1 {
		t.Errorf("got %s with %d bytes, %v, %v", r.Status, r.BytesTransferred, r.Allowed, r.Notes)
	}
	if err := o.builder.Cancel(o.now); job.KindOf(err) != job.Conflict {
		t.Errorf("a second cancel: %v", err)
	}
	post(0)
	if r := o.report(); r.Status != job.Running || r.EndedAt != nil || len(r.Notes) != 0 || r.OverallPercent != 0 {
		t.Errorf("a new attempt is %s at %v %%, %v", r.Status, r.OverallPercent, r.Notes)
	}
}

func TestAFailedExternalJobGoesOnWithMoreBytesAndNotWithALateUpdate(t *testing.T) {
	o := newTool(t)
	post := func(status string, n int64) bool {
		return o.say(report.Update{
			Stage: "Transfer", Status: status, BytesTransferred: &n, TotalBytes: ptr(int64(1000)),
		})
	}
	post("running", 500)
	post("failed", 500)
	if post("running", 500) || o.report().Status != job.StatusFailed {
		t.Error("a late update revived a failed job")
	}
	if !post("running", 501) || o.report().Status != job.Running || o.report().Phase != job.Transfer {
		t.Errorf("with more bytes it is %s in %s", o.report().Status, o.report().Phase)
	}
	post("failed", 501)
	if !post("completed", 1000) || o.report().Status != job.StatusCompleted {
		t.Error("the end that the tool names last was not taken")
	}
}

func TestWhatAnExternalJobHoldsIsBounded(t *testing.T) {
	o := newTool(t)
	for i := range 1000 {
		_, err := o.builder.Apply(report.Update{
			Stage: []string{"Transfer", "Finalize"}[i%2], Status: "running", DiskID: fmt.Sprint("disk-", i),
			ErrorMessage: strings.Repeat("\u20ac", 20_000),
		}, o.now)
		if (err != nil) != (i >= report.MaxExternalDisks) {
			t.Fatalf("disk %d: %v", i, err)
		}
		o.say(report.Update{Stage: []string{"Transfer", "Finalize"}[i%2], Status: "running"})
	}
	r := o.report()
	b, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Disks) != report.MaxExternalDisks || len(r.Phases) > 100 || len(b) > 1<<20 {
		t.Errorf("%d disks, %d phases, %d bytes of JSON", len(r.Disks), len(r.Phases), len(b))
	}
}

// FuzzUpdatesInAnyOrderMakeReportsThatEncodeAndNeverDecrease applies updates that were made of the input, a byte for
// each choice.
func FuzzUpdatesInAnyOrderMakeReportsThatEncodeAndNeverDecrease(f *testing.F) {
	f.Add([]byte("a few updates, one after another, in no order at all"))
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 254, 253, 252, 251, 250, 3, 3, 3, 3})
	f.Fuzz(func(t *testing.T, choices []byte) {
		o := newTool(t)
		before := o.report()
		for len(choices) >= 8 && o.now.Before(time.Unix(1e9+300, 0)) {
			u := updateOf(choices[:8])
			choices = choices[8:]
			applied := o.say(u)
			if u.Percent != nil && *u.Percent == 77 {
				_ = o.builder.Cancel(o.now) // fails if it has ended
			}
			after := o.report()
			checkExternal(t, before, after, u, applied)
			before = after
		}
	})
}

func updateOf(c []byte) report.Update {
	pick := func(c byte, words ...string) string { return words[int(c)%len(words)] }
	number := func(c byte) *int64 {
		return []*int64{
			nil, ptr(int64(0)), ptr(int64(1)), ptr(int64(500)), ptr(int64(1000)), ptr(int64(math.MaxInt64)),
		}[int(c)%6]
	}
	real := func(c byte) *float64 {
		return []*float64{nil, ptr(0.0), ptr(5.0), ptr(77.0), ptr(100.0), ptr(1.7e308), ptr(5e-324)}[int(c)%7]
	}
	return report.Update{
		Stage: pick(c[0], "", "Initializing", "Transfer", "Finalize", "unknown"),
		Status: pick(c[1], "", "running", "completed", "failed", "paused", "queued", "cancelled",
			"in_progress"),
		DiskID: pick(c[2], "", "disk-2000", "disk-2001"), BytesTransferred: number(c[3]), TotalBytes: number(c[4]),
		ThroughputBPS: real(c[5]), Percent: real(c[6]), SyncType: pick(c[7], "", "full", "incremental"),
	}
}

func checkExternal(tb testing.TB, before, after report.Report, u report.Update, applied bool) {
	tb.Helper()
	if _, err := json.Marshal(after); err != nil {
		tb.Fatalf("%+v: %v", after, err)
	}
	completed := after.Status == job.StatusCompleted
	if after.OverallPercent > 100 || (after.OverallPercent == 100) != completed ||
		after.Percent != nil && *after.Percent >= 100 && !completed {
		tb.Errorf("%s at %v %%", after.Status, after.OverallPercent)
	}
	if after.Status.Terminal() && (after.BytesPerSecond != nil || after.ETASeconds != nil || after.EndedAt == nil) {
		tb.Errorf("%s with %v bytes a second, ETA %v, end %v", after.Status, after.BytesPerSecond, after.ETASeconds,
			after.EndedAt)
	}
	if after.BytesTransferred < 0 || after.BytesToTransfer != nil && *after.BytesToTransfer < 0 {
		tb.Errorf("%d of %d bytes", after.BytesTransferred, *after.BytesToTransfer)
	}
	again := applied && (u.BytesTransferred != nil && *u.BytesTransferred == 0 || u.Stage == "Initializing" ||
		u.Stage == "Transfer")
	if after.OverallPercent < before.OverallPercent && !again {
		tb.Errorf("overall from %v %% to %v %% by %+v", before.OverallPercent, after.OverallPercent, u)
	}
	if len(u.DiskID) == 0 && len(after.Disks) == 0 && after.BytesTransferred < before.BytesTransferred && !again {
		tb.Errorf("from %d to %d bytes by %+v", before.BytesTransferred, after.BytesTransferred, u)
	}
}
