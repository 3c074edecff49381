package actors_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// shared is a sink that other programs read.
type shared struct {
	sink

	erasing sync.Mutex
	erased  []report.Deleted
}

var _ actors.Eraser = (*shared)(nil)

func (s *shared) Erase(_ context.Context, d []report.Deleted) error {
	s.mu.Lock()
	err := s.err
	s.mu.Unlock()
	s.erasing.Lock()
	defer s.erasing.Unlock()
	if err == nil {
		s.erased = append(s.erased, d...)
	}
	return err
}

func (s *shared) deleted() []report.Deleted {
	s.erasing.Lock()
	defer s.erasing.Unlock()
	return slices.Clone(s.erased)
}

func TestASinkThatComesAndGoesCausesNoReport(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(10 * time.Second)
		w.command(id, job.Pause)
		w.pass(2 * time.Minute) // its speed is that of nothing by then
		calls, _ := w.sink.count()
		for range 10 { // each refill finds the sink in another state
			w.sink.set(0, job.Errorf("publish", job.Permission, "Allow it", "PUBLISH: may not"))
			w.pass(12 * time.Second)
			if s := w.node.Sinks()[1]; !s.Down || s.Next != "Allow it" || s.Kind != job.Permission {
				t.Errorf("the sink is %+v", s)
			}
			w.sink.set(0, nil)
			w.pass(12 * time.Second)
		}
		distinct, last := 0, report.Report{}
		for _, r := range w.page.reports() {
			if r.Seq <= last.Seq {
				continue // a refill
			}
			if r.Status == job.Paused && last.Status == job.Paused {
				distinct++
				if r.Operation == last.Operation && slices.Contains(r.Health, report.Degraded) {
					t.Errorf("report %s has no reason but the sink: %v, before %v", r.Version(), r.Health, last.Health)
				}
			}
			last = r
		}
		if distinct > 15 { // the snapshot's age changes each minute
			t.Errorf("a paused job has %d reports in 6 min", distinct)
		}
		if now, _ := w.sink.count(); now == calls {
			t.Error("the sink was not called")
		}
	})
}

func TestAJobShowsASinkThatIsDownInItsReportsAndNoLongerThanThat(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		degraded := func() bool { return slices.Contains(w.page.last().Health, report.Degraded) }
		w.sink.set(0, unavailable("connection refused"))
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(20 * time.Second)
		if !degraded() {
			t.Errorf("a running job shows %v", w.page.last().Health)
		}
		w.command(id, job.Pause)
		w.pass(20 * time.Second)
		if !degraded() {
			t.Errorf("a job that was paused while the sink was down shows %v", w.page.last().Health)
		}
		before := w.page.last().Seq
		w.sink.set(0, nil)
		w.pass(15 * time.Second)
		if now := w.page.last(); degraded() || now.Seq != before+1 {
			t.Errorf("when the sink is back the job shows %v, after %d reports", now.Health, now.Seq-before)
		}
	})
}

func TestADeletedJobIsErasedFromASinkThatOthersReadAlsoIfThatIsDown(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		s := &shared{}
		w.stop()
		w.more = []actors.Sink{s}
		w.start()
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(3 * time.Minute)
		w.want(id, job.Completed)
		last := s.last()
		s.set(0, unavailable("connection refused"))
		w.pass(10 * time.Second) // a refill fails, so a report is pending
		w.command(id, job.Delete)
		w.pass(time.Minute)
		_, reports := s.count()
		s.set(0, nil)
		w.pass(time.Minute)
		got := s.deleted()
		if len(got) != 1 || got[0].JobID != id || !last.Version().Less(got[0].Version()) || got[0].At.IsZero() {
			t.Errorf("erased %+v, the last report has version %s", got, last.Version())
		}
		if _, now := s.count(); now != reports {
			t.Errorf("the deleted job was reported %d times", now-reports)
		}
	})
}

// confirmed is a sink that tells its readers whether it has everything.
type confirmed struct {
	sink

	confirming sync.Mutex
	times      []time.Duration
	reports    int // that it had at its last confirmation
}

var _ actors.Confirmer = (*confirmed)(nil)

func (s *confirmed) Confirm(_ context.Context, within time.Duration) error {
	_, reports := s.count()
	s.confirming.Lock()
	defer s.confirming.Unlock()
	s.times, s.reports = append(s.times, within), reports
	return nil
}

func (s *confirmed) confirmations() ([]time.Duration, int) {
	s.confirming.Lock()
	defer s.confirming.Unlock()
	return slices.Clone(s.times), s.reports
}

func TestASinkConfirmsOnlyWhileItHasTheReportOfEveryJobAndTheNodeRuns(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		s := &confirmed{}
		w.stop()
		w.more = []actors.Sink{s}
		w.start()
		w.pass(time.Minute)
		alone, _ := s.confirmations()
		if n := len(alone); n < 9 || n > 13 || slices.Contains(alone, 0) {
			t.Errorf("without a job there were the confirmations %v in a minute", alone)
		}
		w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(5 * time.Second)
		s.set(0, unavailable("connection refused"))
		w.pass(time.Second)
		before, had := s.confirmations()
		w.pass(20 * time.Second)
		if now, _ := s.confirmations(); len(now) != len(before) {
			t.Errorf("a sink that is down has confirmed %d times", len(now)-len(before))
		}
		s.set(0, nil)
		w.pass(15 * time.Second)
		if now, has := s.confirmations(); len(now) <= len(before) || has <= had {
			t.Errorf("back again it has confirmed %d times, with %d reports, and %d before",
				len(now)-len(before), has, had)
		}
		w.stop()
		if now, _ := s.confirmations(); now[len(now)-1] != 0 {
			t.Errorf("at the end it says %v", now[len(now)-1])
		}
		w.start()
	})
}

// slowToEnd is a sink whose call goes on for a while after its context has ended, and then fails.
type slowToEnd struct{ sink }

func (s *slowToEnd) Publish(ctx context.Context, r []report.Report) error {
	_ = s.sink.Publish(context.WithoutCancel(ctx), nil) // takes the time
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return s.sink.Publish(ctx, r)
}

func TestTheReportsOfACallThatTheEndOfTheNodeCutsOffAreWrittenBeforeItEnds(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		slow := &slowToEnd{}
		slow.set(time.Second, nil)
		w.again(func(d *actors.Deps) { d.Sinks = append(d.Sinks, slow) })
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		for w.shown(id).Status != job.StatusCompleted {
			w.pass(50 * time.Millisecond)
		}
		for was, n := 1, 1; n == was || n%2 != 0; { // until the call ends that has no report of the end of the job
			was = n
			w.pass(50 * time.Millisecond)
			n, _ = slow.count()
		}
		w.pass(100 * time.Millisecond)
		if slow.last().Status == job.StatusCompleted {
			t.Fatal("the sink has the last report already")
		}
		w.stop()
		slow.set(0, nil)
		if r := slow.last(); r.JobID != id || r.Status != job.StatusCompleted {
			t.Errorf("the last report of %q that the sink has says %s", r.JobID, r.Status)
		}
		w.start()
	})
}
