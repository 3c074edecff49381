package actors_test

import (
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// panicsIn makes every actor panic that asks for the time in a method of that type, while on is set.
func panicsIn(method string, on *atomic.Bool) func() time.Time {
	return func() time.Time {
		if on.Load() && strings.Contains(string(debug.Stack()), "(*"+method+").") {
			panic("rehearsed")
		}
		return time.Now()
	}
}

// failed is the error with which a node ended; nil if it runs.
func (w *world) failed() error {
	select {
	case err := <-w.node.Failed():
		return err
	default:
		return nil
	}
}

func TestAPanicOfAnActorWithoutAParentEndsTheNodeAndTheNextGoesOn(t *testing.T) {
	cases := map[string]func(w *world, d *actors.Deps, on *atomic.Bool){
		"jobs":       func(_ *world, d *actors.Deps, on *atomic.Bool) { d.Now = panicsIn("jobs", on) },
		"aggregator": func(_ *world, d *actors.Deps, on *atomic.Bool) { d.Now = panicsIn("aggregator", on) },
		"transfers": func(w *world, d *actors.Deps, on *atomic.Bool) {
			d.Transfers = &crashingPermits{copies: w.copies, crash: on}
		},
	}
	for kind, arrange := range cases {
		t.Run(kind, func(t *testing.T) {
			inWorld(t, 1, func(w *world) {
				var on atomic.Bool
				w.again(func(d *actors.Deps) { arrange(w, d, &on) })
				id := w.submit("web", job.Options{Verify: job.VerifyNone})
				w.pass(30 * time.Second)
				w.want(id, job.Transfer)
				if err := w.failed(); err != nil {
					t.Fatal(err)
				}
				_, before := w.sink.count()
				on.Store(true)
				_ = w.node.Limit(t.Context(), id, job.Limited{Disks: new(int)}) // Aggregator, transfers
				_, _, _ = w.node.Submit(t.Context(), job.Spec{VM: "other"}, "", "", "")
				w.pass(20 * time.Second)
				err := w.failed()
				if job.KindOf(err) != job.Internal || !strings.Contains(err.Error(), "the actor "+kind+" panicked") {
					t.Errorf("the node failed with %v", err)
				}
				if n := w.copies.writing(); n != 0 {
					t.Errorf("%d disks are still copied", n)
				}
				if n := w.node.Stats().Panics[kind]; n != 1 {
					t.Errorf("%d panics are counted", n)
				}
				on.Store(false)
				w.stop()
				w.inOrder(before)
				w.start()
				w.pass(3 * time.Minute)
				w.want(id, job.Completed)
				w.settled(id)
				w.inOrder(0)
				if starts := w.copies.startsOf("disk-2000"); len(starts) < 2 || starts[1] < 10 {
					t.Errorf("copies began at %v MiB", starts)
				}
			})
		})
	}
}

// inOrder looks whether the reports that came to a sink, from the nth on, have growing versions for each job, and no
// percent that falls.
func (w *world) inOrder(from int) {
	w.t.Helper()
	last := map[job.ID]report.Report{}
	for _, r := range w.sink.reports()[from:] {
		if was := last[r.JobID]; r.Version().Less(was.Version()) || r.OverallPercent < was.OverallPercent {
			w.t.Fatalf("version %s with %v %% after %s with %v %%", r.Version(), r.OverallPercent, was.Version(),
				was.OverallPercent)
		}
		last[r.JobID] = r
	}
}

// poisoned are targets with which the actors of some jobs panic as soon as they start.
type poisoned struct {
	*targets
	on    atomic.Bool
	lives atomic.Int32
}

func (p *poisoned) Release(id job.ID) {
	if p.on.Load() && strings.Contains(string(debug.Stack()), "(*supervisor).started") && id == "bad" {
		p.lives.Add(1)
		panic("rehearsed at the start")
	}
	p.targets.Release(id)
}

// inPoisonedWorld has a job, bad, whose actor panics at each start while on is set.
func inPoisonedWorld(t *testing.T, f func(w *world, p *poisoned)) {
	t.Helper()
	inWorld(t, 1, func(w *world) {
		p := &poisoned{targets: w.targets}
		w.again(func(d *actors.Deps) { d.Targets = p })
		f(w, p)
	})
}

// hold submits the job bad, which then waits for its cut-over, and makes its actor panic.
func (p *poisoned) hold(w *world) {
	w.t.Helper()
	spec := job.Spec{VM: "web", Options: job.Options{Verify: job.VerifyNone, Cutover: job.CutoverManual}}
	if _, _, err := w.node.Submit(w.t.Context(), spec, "bad", "", ""); err != nil {
		w.t.Fatal(err)
	}
	w.pass(3 * time.Minute)
	w.want("bad", job.Waiting)
	p.on.Store(true)
	w.stop()
	w.epoch++
	n, err := actors.Start(w.t.Context(), actors.Deps{
		Journal: w.journal, Sets: w.journal, VCenter: w.vcenter, Targets: p, Transfers: w.copies,
		Sinks: []actors.Sink{w.page, w.sink}, Epoch: w.epoch, Root: "/targets", Owner: "node-1",
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.node = n
}

// shown is the newest report of a job.
func (w *world) shown(id job.ID) (out report.Report) {
	for _, r := range w.page.reports() {
		if r.JobID == id {
			out = r
		}
	}
	return out
}

func TestAJobThatPanicsAtEachStartIsRevivedWithPausesAndThenStandsStill(t *testing.T) {
	inPoisonedWorld(t, func(w *world, p *poisoned) {
		p.hold(w)
		w.pass(5 * time.Second)
		if n := p.lives.Load(); n < 2 || n > 5 {
			t.Errorf("%d lives within 5 s", n)
		}
		r := w.shown("bad")
		if !slices.Contains(r.Health, report.Retrying) || r.Error == nil || r.Error.Code != job.Internal ||
			!strings.Contains(r.Error.Message, "rehearsed at the start") || r.Status != job.WaitingCutover {
			t.Errorf("between its lives: %s, health %v, error %+v", r.Status, r.Health, r.Error)
		}
		w.pass(10 * time.Minute)
		lives := p.lives.Load()
		if lives != 9 {
			t.Errorf("%d lives, want 9: the first, and 8 after pauses", lives)
		}
		w.pass(10 * time.Hour)
		if n := p.lives.Load(); n != lives {
			t.Errorf("%d more lives", n-lives)
		}
		r = w.shown("bad")
		if r.Status != job.StatusFailed || r.Phase != job.Waiting || r.Error == nil || r.EndedAt == nil ||
			!strings.Contains(r.Error.Next, "vmferry retry bad") ||
			!strings.Contains(r.Error.Message, "9 times") || !strings.Contains(r.Error.Message, "targets are kept") ||
			!slices.Equal(r.Allowed, []job.Verb{job.Retry, job.Cancel}) {
			t.Errorf("it shows as %s, %s, ended %v, allowed %v, %+v", r.Status, r.Phase, r.EndedAt, r.Allowed, r.Error)
		}
		if s := w.node.Stats(); s.Down != 1 || s.Revived != 8 || s.Panics["job"] != 9 {
			t.Errorf("stats %+v", s)
		}
		if err := w.node.Command(t.Context(), "bad", job.CommandReceived{Verb: job.Sync}); job.KindOf(err) !=
			job.Unavailable || !strings.Contains(job.NextOf(err), "vmferry retry bad") {
			t.Errorf("a sync: %v, %s", err, job.NextOf(err))
		}
		w.want("bad", job.Waiting)
	})
}

func TestWhileAJobStandsStillAllOthersGoOn(t *testing.T) {
	inPoisonedWorld(t, func(w *world, p *poisoned) {
		if err := w.node.SetLimits(job.Limits{Jobs: 1}); err != nil {
			t.Fatal(err)
		}
		p.hold(w)
		w.pass(10 * time.Minute)
		for _, vm := range []string{"a", "b"} {
			id := w.submit(vm, job.Options{Verify: job.VerifyNone})
			w.pass(4 * time.Minute)
			w.want(id, job.Completed)
		}
	})
}

func TestAnOperatorBeginsAJobAnewThatStandsStill(t *testing.T) {
	for name, c := range map[string]struct {
		begin func(w *world) error
		next  job.Phase
	}{
		"retry": {func(w *world) error {
			return w.node.Command(w.t.Context(), "bad", job.CommandReceived{Verb: job.Retry})
		}, job.Waiting},
		"cancel": {func(w *world) error {
			return w.node.Command(w.t.Context(), "bad", job.CommandReceived{Verb: job.Cancel})
		}, job.PhaseCancelled},
		"restart of the daemon": {func(w *world) error { w.stop(); w.start(); return nil }, job.Waiting},
	} {
		t.Run(name, func(t *testing.T) {
			inPoisonedWorld(t, func(w *world, p *poisoned) {
				p.hold(w)
				w.pass(10 * time.Minute)
				if err := w.node.Command(t.Context(), "bad", job.CommandReceived{Verb: job.Retry, Fresh: true}); job.
					KindOf(err) != job.Conflict {
					t.Errorf("a fresh retry of a job that has not ended: %v", err)
				}
				p.on.Store(false)
				if err := c.begin(w); err != nil {
					t.Fatal(err)
				}
				w.pass(30 * time.Second)
				w.want("bad", c.next)
				if r := w.shown("bad"); r.Phase != c.next || r.Error != nil {
					t.Errorf("it shows as %s, %s, %+v", r.Status, r.Phase, r.Error)
				}
				if s := w.node.Stats(); s.Down != 0 {
					t.Errorf("%d jobs are down", s.Down)
				}
				if c.next == job.Waiting {
					w.command("bad", job.CutoverNow)
					w.pass(3 * time.Minute)
					w.want("bad", job.Completed)
				}
				w.settled("bad")
			})
		})
	}
}

func TestAJobThatStandsStillInTheMiddleOfItsCopyKeepsItsSnapshotAndGoesOnWhereItWas(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		var on atomic.Bool
		w.again(func(d *actors.Deps) { d.Now = panicsIn("supervisor", &on) })
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		on.Store(true)
		w.ask(id, job.CommandReceived{Verb: job.Pause}) // lost with the actor
		w.pass(15 * time.Minute)
		r := w.shown(id)
		if r.Status != job.StatusFailed || r.Snapshot == nil || r.BytesPerSecond != nil ||
			!strings.Contains(r.Error.Message, "its snapshot and its targets are kept") {
			t.Errorf("it shows as %s, snapshot %+v, speed %v, %+v", r.Status, r.Snapshot, r.BytesPerSecond, r.Error)
		}
		if w.copies.writing() != 0 || w.targets.openCount() != 0 {
			t.Errorf("%d writers, %d open targets", w.copies.writing(), w.targets.openCount())
		}
		if _, use := w.node.Limits(); len(use) > 0 {
			t.Errorf("permits are in use: %+v", use)
		}
		w.pass(10 * time.Minute) // the snapshot reaper looks every minute
		if w.vcenter.count() != 1 {
			t.Errorf("%d snapshots", w.vcenter.count())
		}
		on.Store(false)
		w.command(id, job.Retry)
		w.pass(3 * time.Minute)
		w.want(id, job.Completed)
		w.settled(id)
		if starts := w.copies.startsOf("disk-2000"); starts[len(starts)-1] < 10 {
			t.Errorf("copies began at %v MiB", starts)
		}
		if w.vcenter.count() != 0 {
			t.Error("the snapshot is left")
		}
	})
}

func TestAJobThatPanicsNowAndThenIsAlwaysRevived(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		var crash atomic.Bool
		w.again(func(d *actors.Deps) { d.Now = panics(&crash) })
		id := w.submit("web", job.Options{Verify: job.VerifyNone, Cutover: job.CutoverManual})
		w.pass(3 * time.Minute)
		for range 30 {
			crash.Store(true)
			w.ask(id, job.CommandReceived{Verb: job.Pause}) // lost with the actor
			w.pass(20 * time.Minute)
			if r := w.shown(id); crash.Load() || r.Status != job.WaitingCutover || r.Error != nil {
				t.Fatalf("it shows as %s, %+v; it did not panic: %v", r.Status, r.Error, crash.Load())
			}
		}
	})
}
