package actors_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// last keeps the newest report of each job, as a journal does, and counts what was written.
type last struct {
	mu      sync.Mutex
	reports map[job.ID]report.Report
	rows    int
}

func newLast() *last { return &last{reports: map[job.ID]report.Report{}} }

func (l *last) Name() string { return "journal" }

func (l *last) Pace() (time.Duration, float64) { return 2 * time.Second, 1 }

func (l *last) Publish(_ context.Context, all []report.Report) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range all {
		l.rows++
		l.reports[r.JobID] = r
	}
	return nil
}

func (l *last) ForgetReports(_ context.Context, ids []job.ID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		delete(l.reports, id)
	}
	return nil
}

func (l *last) all() (out []report.Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.reports {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b report.Report) int { return cmp.Compare(a.Seq, b.Seq) })
	return out
}

func (l *last) written() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rows
}

// tools is a world with external jobs, at most three, and a journal of reports.
type tools struct {
	*world
	last *last
}

func inToolWorld(t *testing.T, f func(w *tools)) {
	t.Helper()
	inWorld(t, 1, func(w *world) {
		w.stop()
		o := &tools{w, newLast()}
		o.restart()
		f(o)
	})
}

func (w *tools) restart() {
	w.t.Helper()
	w.startWith(func(d *actors.Deps) {
		d.Sinks, d.Reports, d.ExternalJobs, d.ExternalKeep = []actors.Sink{w.page, w.last}, w.last.all(), 3, time.Hour
	})
}

func (w *tools) post(id job.ID, done int64) error {
	return w.node.ExternalUpdate(w.t.Context(), id, report.Update{
		Stage: "Transfer", Status: "running", BytesTransferred: &done,
	})
}

// shown is the newest report of a job.
func (w *tools) shown(id job.ID) (r report.Report) {
	w.page.mu.Lock()
	defer w.page.mu.Unlock()
	for _, one := range w.page.all {
		if one.JobID == id {
			r = one
		}
	}
	return r
}

func (w *tools) wantKind(what string, err error, kind job.Kind) {
	w.t.Helper()
	if job.KindOf(err) != kind {
		w.t.Errorf("%s: %v, want %s", what, err, kind)
	}
}

func TestOneMoreExternalJobThanMayBeIsRefusedUntilOneIsDeleted(t *testing.T) {
	inToolWorld(t, func(w *tools) {
		for _, id := range []job.ID{"job-a", "job-b", "job-c", "job-a"} {
			if err := w.post(id, 5); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.post("job-d", 5); !errors.Is(err, report.ErrTooManyExternal) || job.NextOf(err) == "" {
			t.Errorf("a fourth job: %v", err)
		}
		if w.shown("job-d").JobID != "" {
			t.Error("the refused job is shown")
		}
		w.command("job-b", job.Delete)
		if err := w.post("job-d", 5); err != nil {
			t.Errorf("after a delete: %v", err)
		}
	})
}

func TestAnExternalJobIsCancelledAndDeletedAndStaysDeletedAfterARestart(t *testing.T) {
	inToolWorld(t, func(w *tools) {
		_ = w.post("job-a", 5)
		_ = w.post("job-b", 5)
		w.pass(time.Minute) // both are in the journal
		w.command("job-a", job.Cancel)
		if r := w.shown("job-a"); r.Status != job.StatusCancelled || r.EndedAt == nil {
			t.Errorf("after the cancel it is %s", r.Status)
		}
		err := w.node.Command(t.Context(), "job-b", job.CommandReceived{Verb: job.Pause})
		w.wantKind("pause", err, job.Conflict)
		w.wantKind("limit", w.node.Limit(t.Context(), "job-b", job.Limited{Disks: new(int)}), job.Conflict)
		_ = w.post("job-b", 6)
		w.command("job-b", job.Delete)
		if all := w.last.all(); len(all) != 1 || all[0].JobID != "job-a" {
			t.Errorf("when the delete is answered, the journal has %d jobs", len(all))
		}
		w.wantKind("a second delete", w.node.Command(t.Context(), "job-b", job.CommandReceived{Verb: job.Delete}),
			job.NotFound)
		w.pass(time.Minute)
		w.stop()
		if all := w.last.all(); len(all) != 1 || all[0].Status != job.StatusCancelled {
			t.Errorf("the journal has %d jobs, the first is %s", len(all), all[0].Status)
		}
		w.restart()
		w.pass(time.Second)
		w.command("job-a", job.Delete)
	})
}

func TestASilentExternalJobBecomesStaleThenGoesAndALaterUpdateRevivesIt(t *testing.T) {
	inToolWorld(t, func(w *tools) {
		_ = w.post("job-a", 5)
		w.pass(report.StaleAfter + 2*time.Second)
		if r := w.shown("job-a"); !slices.Equal(r.Health, []report.Health{report.Stale}) {
			t.Errorf("after silence: %v", r.Health)
		}
		_ = w.post("job-a", 6)
		if r := w.shown("job-a"); len(r.Health) != 0 || r.BytesTransferred != 6 {
			t.Errorf("after an update: %v, %d bytes", r.Health, r.BytesTransferred)
		}
		w.pass(59 * time.Minute)
		w.stop() // the silence counts on over a restart
		w.restart()
		if len(w.last.all()) != 1 {
			t.Fatal("it went too early")
		}
		w.pass(2 * time.Minute)
		if n := len(w.last.all()); n != 0 {
			t.Errorf("after an hour of silence the journal has %d jobs", n)
		}
		w.wantKind("cancel", w.node.Command(t.Context(), "job-a", job.CommandReceived{Verb: job.Cancel}),
			job.NotFound)
		_ = w.post("job-a", 1)
		if r := w.shown("job-a"); r.BytesTransferred != 1 || r.Status != job.Running {
			t.Errorf("a later update shows %d bytes, %s", r.BytesTransferred, r.Status)
		}
	})
}

func TestExternalJobsComeBackAfterARestartWithTheSameLimit(t *testing.T) {
	inToolWorld(t, func(w *tools) {
		for i, id := range []job.ID{"job-a", "job-b", "job-c"} {
			_ = w.post(id, int64(i+10))
			w.pass(time.Second)
		}
		w.stop()
		w.startWith(func(d *actors.Deps) {
			d.Sinks, d.Reports, d.ExternalJobs = []actors.Sink{w.page, w.last}, w.last.all(), 2
		})
		w.pass(5 * time.Second)
		if r := w.shown("job-c"); r.Epoch != w.epoch || r.BytesTransferred != 12 {
			t.Errorf("it came back with %d bytes in version %s", r.BytesTransferred, r.Version())
		}
		if all := w.last.all(); len(all) != 2 || slices.ContainsFunc(all, func(r report.Report) bool {
			return r.JobID == "job-a"
		}) {
			t.Errorf("the job with the longest silence is kept among %d", len(all))
		}
		if err := w.post("job-d", 1); !errors.Is(err, report.ErrTooManyExternal) {
			t.Errorf("a third job: %v", err)
		}
	})
}

func TestAnUpdateNeverTouchesAJobOfThisNodeAndNoJobTakesTheIDOfAnExternalOne(t *testing.T) {
	inToolWorld(t, func(w *tools) {
		own := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.wantKind("an update as soon as the job is accepted", w.post(own, 5), job.Conflict)
		w.pass(10 * time.Second)
		before := w.shown(own)
		w.wantKind("an update", w.post(own, 5), job.Conflict)
		if after := w.shown(own); after.Version() != before.Version() {
			t.Errorf("the update made report %s after %s", after.Version(), before.Version())
		}
		_ = w.post("job-x", 5)
		_, _, err := w.node.Submit(t.Context(), job.Spec{VM: "db"}, "job-x", "", "")
		w.wantKind("a job with the id of an external one", err, job.Conflict)
		if err := w.post("job-x", 6); err != nil {
			t.Errorf("the refused job took the id: %v", err)
		}
		_, _, err = w.node.Submit(t.Context(), job.Spec{VM: "web"}, "job-y", "", "") // the VM is being moved
		w.wantKind("a second job for the VM", err, job.Conflict)
		if err := w.post("job-y", 6); err != nil {
			t.Errorf("a job that was not made keeps its id: %v", err)
		}
		w.command("job-x", job.Delete)
		if _, _, err = w.node.Submit(t.Context(), job.Spec{VM: "db"}, "job-x", "", ""); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Second)
		if r := w.shown("job-x"); r.Origin != report.Own || r.OverallPercent > 50 {
			t.Errorf("the new job is %s at %v %%", r.Origin, r.OverallPercent)
		}
	})
}

func TestAThousandUpdatesOfAnExternalJobAreAFewRowsInTheJournal(t *testing.T) {
	inToolWorld(t, func(w *tools) {
		for i := range int64(1000) {
			_ = w.post("job-a", i)
			w.pass(100 * time.Millisecond)
		}
		if n := w.last.written(); n < 3 || n > 10 {
			t.Errorf("%d rows for 100 s of updates", n)
		}
		if n := len(w.page.all); n < 1000 {
			t.Errorf("%d reports of 1000 updates", n)
		}
		w.stop()
		if r := w.last.reports["job-a"]; r.BytesTransferred != 999 {
			t.Errorf("a stopped node leaves %d bytes", r.BytesTransferred)
		}
		w.restart()
	})
}

// An update costs the same with many jobs as with few: it makes one report, and allocates as much.
func TestAnUpdateMakesOneReportHoweverManyExternalJobsThereAre(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.stop()
		w.startWith(func(d *actors.Deps) { d.Sinks = []actors.Sink{w.page} })
		o := &tools{world: w}
		cost := func() float64 {
			return testing.AllocsPerRun(200, func() {
				if err := o.post("job-0", 5); err != nil {
					t.Fatal(err)
				}
			})
		}
		_ = o.post("job-0", 5)
		few := cost()
		for i := range 3000 {
			if err := o.post(job.ID(fmt.Sprint("job-", i)), 5); err != nil {
				t.Fatal(err)
			}
		}
		before := len(w.page.all)
		many := cost()
		if n := len(w.page.all) - before; n != 201 {
			t.Errorf("%d reports of 201 updates", n)
		}
		if many > few*1.5 {
			t.Errorf("an update allocates %v times with one job, %v times with 3000", few, many)
		}
	})
}

// paced is a sink that says how long reports of external jobs wait.
type paced struct{ *last }

func (paced) ExternalPace() (numbers, state time.Duration) { return 2 * time.Second, 0 }

var _ actors.ExternallyPaced = paced{}

func TestASinkWithItsOwnPaceForExternalJobsHasTheirStateAtOnceAndTheirNumbersAtThatPace(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.stop()
		o := &tools{w, newLast()}
		w.startWith(func(d *actors.Deps) { d.Sinks = []actors.Sink{w.page, paced{o.last}} })
		of := func() (r report.Report) {
			if all := o.last.all(); len(all) > 0 {
				r = all[0]
			}
			return r
		}
		_ = o.post("job-a", 5)
		o.pass(3 * time.Second)
		rows := o.last.written()
		for n := int64(6); n < 26; n++ {
			_ = o.post("job-a", n)
			o.pass(500 * time.Millisecond)
		}
		if r := of(); r.BytesTransferred < 20 {
			t.Errorf("its numbers are those of %d bytes", r.BytesTransferred)
		}
		if n := o.last.written() - rows; n < 4 || n > 6 {
			t.Errorf("in 10 s it has %d reports", n)
		}
		_ = o.node.ExternalUpdate(t.Context(), "job-a", report.Update{Status: "failed", ErrorMessage: "read"})
		o.pass(500 * time.Millisecond)
		if r := of(); r.Status != job.StatusFailed {
			t.Errorf("half a second after it failed it is %s", r.Status)
		}
	})
}
