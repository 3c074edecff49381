package actors_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
)

// again starts the node of a world anew, with other dependencies.
func (w *world) again(change func(d *actors.Deps)) {
	w.t.Helper()
	w.stop()
	w.epoch++
	d := actors.Deps{
		Journal: w.journal, Sets: w.journal, VCenter: w.vcenter, Targets: w.targets, Transfers: w.copies,
		Sinks: []actors.Sink{w.page, w.sink}, Epoch: w.epoch, Root: "/targets", Owner: "node-1",
	}
	change(&d)
	n, err := actors.Start(w.t.Context(), d)
	if err != nil {
		w.t.Fatal(err)
	}
	w.node = n
}

// panics makes the next actor of a job that asks for the time panic.
func panics(crash *atomic.Bool) func() time.Time {
	return func() time.Time {
		if crash.Load() && strings.Contains(string(debug.Stack()), "(*supervisor).") &&
			crash.CompareAndSwap(true, false) {
			panic("rehearsed")
		}
		return time.Now()
	}
}

// settled looks whether a job waits or has ended, and whether nothing of it is left.
func (w *world) settled(id job.ID) {
	w.t.Helper()
	st := w.journal.state(id)
	if st.Phase != job.Waiting && !st.Phase.Terminal() {
		w.t.Errorf("the job stays in %s, %s: %+v", st.Phase, st.Status(), st.Disks)
	}
	if n := w.targets.openCount(); n > 0 {
		w.t.Errorf("%d targets are open in %s", n, st.Phase)
	}
	if _, use := w.node.Limits(); len(use) > 0 {
		w.t.Errorf("permits are in use: %+v", use)
	}
}

func TestNothingIsRemovedWhileTheTransferOfACrashedDiskWrites(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.copies.slowStop = 20 * time.Second
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		if err := w.node.Rehearse(t.Context(), id, "disk-2000"); err != nil {
			t.Fatal(err)
		}
		cancel := job.CommandReceived{Verb: job.Cancel, Purge: true}
		if err := w.node.Command(t.Context(), id, cancel); err != nil {
			t.Fatal(err)
		}
		w.pass(8 * time.Second)
		if n := w.copies.writing(); n != 1 || w.targets.openCount() != 1 || w.vcenter.count() != 1 {
			t.Errorf("%d writers, %d targets, %d snapshots while the copy still ends", n, w.targets.openCount(),
				w.vcenter.count())
		}
		w.pass(time.Minute)
		w.want(id, job.PhaseCancelled)
		w.settled(id)
		if w.vcenter.count() != 0 || w.targets.there("/targets/web/disk-2000.raw") {
			t.Error("the snapshot or the target is left")
		}
	})
}

// lostAnswer is a journal whose answer is lost once, when a job goes to clean-up: the state is durable then, and the
// actor of the job does not know.
type lostAnswer struct {
	*journal
	lose atomic.Bool
}

func (j *lostAnswer) Save(ctx context.Context, st job.State, event []byte) error {
	err := j.journal.Save(ctx, st, event)
	if err == nil && st.Phase == job.Cleanup && j.lose.CompareAndSwap(true, false) {
		return job.Errorf("save", job.Unavailable, "", "the answer was lost")
	}
	return err
}

func TestAJobThatCrashesBeforeItLetsGoOfItsTargetsReleasesThemAfterwards(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		j := &lostAnswer{journal: w.journal}
		var crash atomic.Bool
		w.again(func(d *actors.Deps) { d.Journal, d.Now = j, panics(&crash) })
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		j.lose.Store(true)
		w.command(id, job.Cancel)
		crash.Store(true)
		w.pass(3 * time.Minute)
		w.want(id, job.PhaseCancelled)
		w.settled(id)
	})
}

func TestLimitsOfADeletedJobDoNotHoldForTheNextOfItsName(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		submit := func(o job.Options) {
			if _, _, err := w.node.Submit(t.Context(), job.Spec{VM: "web", Options: o}, "mine", "", ""); err != nil {
				t.Fatal(err)
			}
		}
		w.copies.failDisk("disk-2000", 10, job.Errorf("write", job.Permission, "", "no longer allowed"))
		submit(job.Options{Verify: job.VerifyNone, Disks: 1})
		w.pass(6 * time.Minute)
		w.want("mine", job.Failed)
		w.command("mine", job.Delete)
		w.pass(time.Second)
		w.journal.order = nil
		w.copies.forget()
		submit(job.Options{Verify: job.VerifyNone})
		w.pass(40 * time.Second)
		w.want("mine", job.Transfer)
		if n := w.copies.writing(); n != 2 {
			t.Errorf("%d disks are copied at the same time: the limit of the deleted job holds", n)
		}
	})
}

// crashingPermits panics in the actor transfers, once.
type crashingPermits struct {
	*copies
	crash *atomic.Bool
}

func (p *crashingPermits) LimitJob(id job.ID, l job.TransferLimits) {
	if p.crash.CompareAndSwap(true, false) {
		panic("rehearsed")
	}
	p.copies.LimitJob(id, l)
}

// TestAJobSurvivesPanicsAndCommandsAtAnyMoment gives random commands, and lets the actors of jobs and Disks panic at
// random moments. inWorld counts the writers on each target.
func TestAJobSurvivesPanicsAndCommandsAtAnyMoment(t *testing.T) {
	for seed := range uint64(24) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, 2, func(w *world) {
				var crash atomic.Bool
				w.again(func(d *actors.Deps) { d.Now = panics(&crash) })
				r := rand.New(rand.NewPCG(seed, 2))
				w.copies.slowStop = time.Duration(r.IntN(2)*r.IntN(8)) * time.Second
				options := job.Options{Verify: job.VerifySample, Cutover: job.CutoverManual, Disks: r.IntN(3)}
				id := w.submit("web", options)
				for range 40 {
					w.pass(time.Duration(r.IntN(6000)) * time.Millisecond)
					w.disturb(r, id, &crash)
				}
				crash.Store(false)
				w.pass(time.Minute)
				if w.node.Stats().Down > 0 {
					w.command(id, job.Retry)
				}
				w.ask(id, job.CommandReceived{Verb: job.Resume})
				w.pass(20 * time.Minute)
				w.settled(id)
			})
		})
	}
}

// disturb does one thing to a job, by chance.
func (w *world) disturb(r *rand.Rand, id job.ID, crash *atomic.Bool) {
	switch n := r.IntN(11); n {
	case 0, 1:
		_ = w.node.Rehearse(w.t.Context(), id, []job.DiskID{"disk-2000", "disk-2001"}[n])
	case 2, 3:
		crash.Store(true)
	case 4:
		w.ask(id, job.CommandReceived{Verb: job.Pause})
	case 5, 6:
		w.ask(id, job.CommandReceived{Verb: job.Resume})
	case 7:
		if r.IntN(4) == 0 {
			w.ask(id, job.CommandReceived{Verb: job.Cancel, Purge: r.IntN(2) == 0})
		}
	case 8:
		w.ask(id, job.CommandReceived{Verb: job.Retry})
	case 9:
		w.ask(id, job.CommandReceived{Verb: job.Sync})
	case 10:
		disks := r.IntN(3)
		ctx, cancel := context.WithTimeout(w.t.Context(), 15*time.Second)
		defer cancel()
		_ = w.node.Limit(ctx, id, job.Limited{Disks: &disks})
	}
}

// ask gives a command that may be refused, or lost with an actor that panics.
func (w *world) ask(id job.ID, cmd job.CommandReceived) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 15*time.Second)
	defer cancel()
	_ = w.node.Command(ctx, id, cmd)
}
