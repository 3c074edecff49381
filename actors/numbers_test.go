package actors_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

func TestASourceThatHangsShowsWithinSixSeconds(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.copies.hangAt = 20
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		begun := time.Now()
		for w.page.last().BytesTransferred < 20*mib {
			w.pass(100 * time.Millisecond)
			if time.Since(begun) > time.Minute {
				t.Fatalf("it does not hang: %+v", w.page.last())
			}
		}
		if h := w.page.last().Health; len(h) != 0 {
			t.Errorf("health %v while bytes move", h)
		}
		w.pass(6 * time.Second)
		r := w.page.last()
		if fmt.Sprint(r.Health) != "[silent]" || r.WaitingFor != "source" || r.BytesPerSecond != nil ||
			r.ETASeconds != nil {
			t.Errorf("6 s later: health %v, waits for %q, speed %v, eta %v", r.Health, r.WaitingFor, r.BytesPerSecond,
				r.ETASeconds)
		}
		if age := time.Since(*r.SampledAt); age > time.Second {
			t.Errorf("the newest numbers are %v old: a copy that hangs stopped its progress", age)
		}
		w.pass(56 * time.Second)
		if h := w.page.last().Health; !slices.Equal(h, []report.Health{report.Silent, report.Stalled}) {
			t.Errorf("a minute later: health %v", h)
		}
		w.command(id, job.Cancel)
		w.pass(time.Minute)
		w.want(id, job.PhaseCancelled)
		if r := w.page.last(); len(r.Health) != 0 || r.WaitingFor != "" {
			t.Errorf("after the end: health %v, waits for %q", r.Health, r.WaitingFor)
		}
	})
}

func TestNoReportOfADaemonThatHasEndedSaysThatBytesMove(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		before := w.sink.last()
		if before.BytesPerSecond == nil || before.ETASeconds == nil {
			t.Fatalf("it does not copy: %+v", before)
		}
		w.stop()
		if r := w.sink.last(); r.JobID != id || r.BytesPerSecond != nil || r.ETASeconds != nil ||
			r.BytesTransferred < before.BytesTransferred {
			t.Errorf("the last report: %d bytes, speed %v, eta %v", r.BytesTransferred, r.BytesPerSecond, r.ETASeconds)
		}
		w.pass(time.Hour)
		w.start()
		w.pass(5 * time.Second)
		most := 0.0
		for _, r := range w.page.reports() {
			most = max(most, report.SpeedOr0(r.BytesPerSecond), r.BytesPerSecondPeak)
		}
		if most > 1.3*mib {
			t.Errorf("%.0f bytes a second, and a MiB a second moves", most)
		}
		w.pass(5 * time.Minute)
		w.want(id, job.Completed)
	})
}

func TestAttemptsThatNeverBeganHaveSentNothing(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.copies.failDisk("disk-2000", 20, job.Errorf("read", job.Unavailable, "", "gone"))
		w.copies.refused = 3
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(10 * time.Minute)
		st := w.want(id, job.Completed)
		if d := st.Disks[0]; w.copies.refused != 0 || d.Resent() != 0 || d.Sent != 100*mib {
			t.Errorf("%d of %d bytes were sent again, and all that was sent was durable", d.Resent(), d.Sent)
		}
	})
}
