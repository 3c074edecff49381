package actors_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
)

// slowDiscard are copies whose records are removed slowly.
type slowDiscard struct {
	*copies
	takes time.Duration
}

func (s *slowDiscard) Discard(ctx context.Context, id job.ID) error {
	pauseFor(ctx, s.takes)
	return s.copies.Discard(ctx, id)
}

// submitMine submits a job of the id mine.
func (w *world) submitMine() {
	w.t.Helper()
	spec := job.Spec{VM: "web", Mode: job.Full, Options: job.Options{Verify: job.VerifyNone}}
	if _, _, err := w.node.Submit(w.t.Context(), spec, "mine", "", ""); err != nil {
		w.t.Fatal(err)
	}
}

func TestAJobOfTheIDOfOneThatIsBeingDeletedRuns(t *testing.T) {
	for name, takes := range map[string]time.Duration{
		"submitted before the deletion is done": 10 * time.Second, "after it": 0,
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 1, func(w *world) {
				slow := &slowDiscard{copies: w.copies}
				w.again(func(d *actors.Deps) { d.Transfers = slow })
				w.submitMine()
				w.pass(3 * time.Minute)
				w.want("mine", job.Completed)
				w.journal.order = nil
				slow.takes = takes
				deleted := make(chan error, 1)
				go func() {
					deleted <- w.node.Command(context.WithoutCancel(t.Context()), "mine",
						job.CommandReceived{Verb: job.Delete})
				}()
				w.pass(time.Second)
				w.submitMine()
				w.pass(5 * time.Minute)
				if err := <-deleted; err != nil && job.KindOf(err) != job.Timeout {
					t.Error(err)
				}
				w.want("mine", job.Completed)
				if r := w.shown("mine"); r.Status != job.StatusCompleted {
					t.Errorf("it shows as %s", r.Status)
				}
			})
		})
	}
}

func TestTheNumbersOfADeletedJobAreNotThoseOfTheNextOfItsID(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.submitMine()
		w.pass(3 * time.Minute)
		w.want("mine", job.Completed)
		var crash atomic.Bool
		w.stop()
		w.startWith(func(d *actors.Deps) { d.Now = panics(&crash) })
		w.pass(time.Second)
		w.command("mine", job.Delete)
		w.journal.order = nil
		w.copies.forget()
		w.submitMine()
		w.pass(30 * time.Second)
		w.want("mine", job.Transfer)
		crash.Store(true)
		_ = w.node.Limit(t.Context(), "mine", job.Limited{Disks: new(int)})
		w.pass(3 * time.Second)
		d := w.want("mine", job.Transfer).Disks[0]
		if d.Attempt < 2 || d.High >= d.ToTransfer/2 {
			t.Errorf("attempt %d has %d bytes of %d", d.Attempt, d.High, d.ToTransfer)
		}
	})
}
