package actors_test

import (
	"context"
	"testing"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
)

// slowJournal takes a while for each change.
type slowJournal struct {
	*journal
	takes func(st job.State) time.Duration
}

func (j slowJournal) Save(ctx context.Context, st job.State, event []byte) error {
	pauseFor(ctx, j.takes(st))
	return j.journal.Save(ctx, st, event)
}

func always(d time.Duration) func(job.State) time.Duration {
	return func(job.State) time.Duration { return d }
}

func TestARetryIsAdmittedAlthoughAnotherJobChangesWhileItIsStored(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.again(func(d *actors.Deps) { d.Journal = slowJournal{w.journal, always(100 * time.Millisecond)} })
		w.copies.failDisk("disk-2000", 10, job.Errorf("write", job.Permission, "", "no longer allowed"))
		a := w.submit("a", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		w.want(a, job.Failed)
		b := w.submit("b", job.Options{Verify: job.VerifyNone})
		w.pass(10 * time.Second)
		w.want(b, job.Transfer)
		go func() { _ = w.node.Command(t.Context(), a, job.CommandReceived{Verb: job.Retry}) }()
		w.pass(50 * time.Millisecond)
		if err := w.node.Limit(t.Context(), b, job.Limited{Disks: new(2)}); err != nil {
			t.Fatal(err)
		}
		w.pass(5 * time.Minute)
		w.want(a, job.Completed)
		w.want(b, job.Completed)
	})
}

func TestALimitOfAQueuedJobDoesNotHideThatItWasAdmitted(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		slow := func(st job.State) time.Duration {
			if st.Spec.VM == "b" {
				return time.Second
			}
			return 0
		}
		w.again(func(d *actors.Deps) { d.Journal = slowJournal{w.journal, slow} })
		if err := w.node.SetLimits(job.Limits{Jobs: 1}); err != nil {
			t.Fatal(err)
		}
		a := w.submit("a", job.Options{Verify: job.VerifyNone})
		b := w.submit("b", job.Options{Verify: job.VerifyNone})
		c := w.submit("c", job.Options{Verify: job.VerifyNone})
		w.pass(10 * time.Second)
		for range 360 {
			// A change of b is nearly always being stored.
			go func() { _ = w.node.Limit(t.Context(), b, job.Limited{Disks: new(2)}) }()
			w.pass(1050 * time.Millisecond)
			if n := w.journal.busy(); n > 1 {
				t.Fatalf("%d jobs run, the limit is 1", n)
			}
		}
		w.pass(10 * time.Minute)
		for _, id := range []job.ID{a, b, c} {
			w.want(id, job.Completed)
		}
	})
}

// busy is how many jobs run by their durable states.
func (j *journal) busy() (n int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, st := range j.states {
		if !st.Phase.Terminal() && st.Phase != job.Queued && st.Phase != job.Waiting {
			n++
		}
	}
	return n
}
