package actors_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
)

// set is the committed set of the VM web.
func (w *world) set() *job.CheckpointSet {
	w.t.Helper()
	set, err := w.journal.Set(w.t.Context(), "uuid-web")
	if err != nil {
		w.t.Fatal(err)
	}
	return set
}

// committed runs a job of the VM web to its end.
func (w *world) committed() {
	w.t.Helper()
	id := w.submit("web", job.Options{Verify: job.VerifyNone})
	w.pass(3 * time.Minute)
	w.want(id, job.Completed)
	if set := w.set(); set == nil || len(set.Disks) == 0 {
		w.t.Fatalf("the job left the set %+v", set)
	}
}

// trackChanges says whether the copies refuse all change IDs.
func (w *world) trackChanges(on bool) {
	w.copies.mu.Lock()
	defer w.copies.mu.Unlock()
	w.copies.badCBT = !on
}

func TestARoundThatGoesFullLeavesNoOlderSetWhenItBreaks(t *testing.T) {
	for name, tc := range map[string]struct {
		mode    job.Mode
		tracked bool // the change IDs of the older set are good
	}{
		"a full round was asked for": {job.Full, true}, "tracking is invalid": {job.Auto, false},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 2, func(w *world) {
				w.committed()
				w.trackChanges(tc.tracked)
				id, _, err := w.node.Submit(t.Context(), job.Spec{VM: "web", Mode: tc.mode}, "", "", "")
				if err != nil {
					t.Fatal(err)
				}
				w.pass(20 * time.Second)
				if st := w.want(id, job.Transfer); st.Mode() != job.Full {
					t.Fatalf("the round goes %s", st.Mode())
				}
				if set := w.set(); set != nil {
					t.Errorf("while targets are overwritten the journal has the set of round %d of %s", set.Round,
						set.Job)
				}
				w.command(id, job.Cancel)
				w.pass(30 * time.Second)
				w.want(id, job.PhaseCancelled)
				w.trackChanges(true)
				next := w.submit("web", job.Options{})
				w.pass(20 * time.Second)
				if st := w.want(next, job.Transfer); st.Mode() != job.Full {
					t.Errorf("after a full round that was cut off, the next job goes %s", st.Mode())
				}
			})
		})
	}
}

// keptCopies counts how often what is recorded of the copies is dropped.
type keptCopies struct {
	*copies
	dropped atomic.Int32
}

func (c *keptCopies) Discard(context.Context, job.ID) error {
	c.dropped.Add(1)
	return nil
}

// closedSets can't commit while it is closed.
type closedSets struct {
	*journal
	closed atomic.Bool
}

func (s *closedSets) Commit(ctx context.Context, set job.CheckpointSet) error {
	if s.closed.Load() {
		return job.Errorf("commit", job.Unavailable, "", "the database is locked")
	}
	return s.journal.Commit(ctx, set)
}

func TestCheckpointsStayUntilTheSetIsCommitted(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		copies, sets := &keptCopies{copies: w.copies}, &closedSets{journal: w.journal}
		w.again(func(d *actors.Deps) { d.Transfers, d.Sets = copies, sets })
		sets.closed.Store(true)
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(2 * time.Minute)
		if st := w.want(id, job.Commit); st.Step.Attempt == 0 || w.set() != nil {
			t.Errorf("the commit did not fail: %+v", st.Step)
		}
		if n := copies.dropped.Load(); n != 0 {
			t.Errorf("checkpoints were dropped %d times before the set was committed", n)
		}
		sets.closed.Store(false)
		w.pass(3 * time.Minute)
		w.want(id, job.Completed)
		if n := copies.dropped.Load(); n != 1 || w.set() == nil {
			t.Errorf("after the commit checkpoints were dropped %d times", n)
		}
	})
}

// edit changes the state that the journal has of a job, while no node runs.
func (w *world) edit(id job.ID, change func(st *job.State)) {
	w.t.Helper()
	w.stop()
	st := w.journal.state(id)
	change(&st)
	w.journal.mu.Lock()
	w.journal.states[id] = st
	w.journal.mu.Unlock()
	w.start()
	w.pass(time.Second)
}

// oneFails runs a job whose first disk fails. The second disk is copied.
func (w *world) oneFails() job.ID {
	w.t.Helper()
	w.copies.failDisk("disk-2000", 10, job.Errorf("write", job.Permission, "", "no longer allowed"))
	id := w.submit("web", job.Options{Verify: job.VerifyNone})
	w.pass(4 * time.Minute)
	w.want(id, job.Failed)
	return id
}

// refusesFull retries the first disk of a job, and looks whether the second one stays as it is.
func (w *world) refusesFull(id job.ID) {
	w.t.Helper()
	retry := job.CommandReceived{Verb: job.Retry, Disks: []job.DiskID{"disk-2000"}}
	if err := w.node.Command(w.t.Context(), id, retry); err != nil {
		w.t.Fatal(err)
	}
	w.pass(4 * time.Minute)
	if st := w.want(id, job.Failed); st.Failure.Kind != job.Conflict ||
		!strings.Contains(st.Failure.Message, "disk-2001 would have to be copied in full, too") {
		w.t.Errorf("failure %+v", st.Failure)
	}
	if starts := w.copies.startsOf("disk-2001"); len(starts) != 1 {
		w.t.Errorf("disk-2001 was copied %d times", len(starts))
	}
}

func TestARetryOfOneDiskCopiesNoOtherInFull(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		id := w.oneFails()
		w.edit(id, func(st *job.State) { // tracking was reset since
			set := *st.Partial
			set.Disks = []job.DiskCheckpoint{set.Disks[0]}
			set.Disks[0].ChangeID = "51/1"
			st.Partial = &set
		})
		w.refusesFull(id)
		w.command(id, job.Retry)
		w.pass(4 * time.Minute)
		w.want(id, job.Completed)
	})
}

func TestTrackingThatIsInvalidCopiesNothingInFullThatMustNotBe(t *testing.T) {
	t.Run("a retry of another disk", func(t *testing.T) {
		inWorld(t, 2, func(w *world) {
			id := w.oneFails()
			w.trackChanges(false)
			w.refusesFull(id)
		})
	})
	t.Run("an incremental round was asked for", func(t *testing.T) {
		inWorld(t, 2, func(w *world) {
			w.committed()
			w.trackChanges(false)
			id, _, err := w.node.Submit(t.Context(), job.Spec{VM: "web", Mode: job.Incremental}, "", "", "")
			if err != nil {
				t.Fatal(err)
			}
			w.pass(30 * time.Second)
			if st := w.want(id, job.Failed); st.Failure.Kind != job.Conflict ||
				!strings.Contains(st.Failure.Message, "an incremental round is not possible") {
				t.Errorf("failure %+v", st.Failure)
			}
			if w.set() == nil {
				t.Error("nothing was written, and the set is gone")
			}
		})
	})
}
