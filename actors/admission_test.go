package actors_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
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

// TestEveryQueuedJobIsAdmittedInTheEndAndNeverTooMany interleaves retries, limits, submissions, cancels and limits of
// the node at random, with a journal whose changes take up to half a second.
func TestEveryQueuedJobIsAdmittedInTheEndAndNeverTooMany(t *testing.T) {
	seeds := uint64(16)
	if testing.Short() { // make it runs all
		seeds = 4
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inWorld(t, 1, func(w *world) {
				r := rand.New(rand.NewPCG(seed, 23))
				watched := &watchedJournal{journal: w.journal, r: rand.New(rand.NewPCG(seed, 24)), most: 2}
				w.again(func(d *actors.Deps) { d.Journal = watched })
				w.interleave(r, watched)
				w.pass(2 * time.Hour)
				for id, st := range w.journal.states {
					if !st.Phase.Terminal() {
						t.Errorf("job %s stays in %s", id, st.Phase)
					}
				}
				if watched.over > 0 {
					t.Errorf("%d times more jobs ran than the limit", watched.over)
				}
			})
		})
	}
}

// interleave does 60 things at random, at random moments.
func (w *world) interleave(r *rand.Rand, j *watchedJournal) {
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Minute)
	defer cancel()
	var ids []job.ID
	for range 60 {
		w.pass(time.Duration(r.IntN(3000)) * time.Millisecond)
		if len(ids) == 0 || len(ids) < 8 && r.IntN(4) == 0 {
			ids = append(ids, w.submit(fmt.Sprint("vm", len(ids)), job.Options{Verify: job.VerifyNone}))
			continue
		}
		id := ids[r.IntN(len(ids))]
		switch r.IntN(6) {
		case 0, 1:
			go func() { _ = w.node.Command(ctx, id, job.CommandReceived{Verb: job.Retry}) }()
		case 2:
			go func() { _ = w.node.Command(ctx, id, job.CommandReceived{Verb: job.Cancel}) }()
		case 3, 4:
			go func() { _ = w.node.Limit(ctx, id, job.Limited{Disks: new(2)}) }()
		case 5:
			most := 1 + r.IntN(3)
			j.limit(most)
			if err := w.node.SetLimits(job.Limits{Jobs: most}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

// watchedJournal takes a random time for each change, and looks at each job that starts.
type watchedJournal struct {
	*journal
	own  sync.Mutex
	r    *rand.Rand
	most int // highest limit of the node so far
	over int
}

func (j *watchedJournal) limit(most int) {
	j.own.Lock()
	defer j.own.Unlock()
	j.most = max(j.most, most)
}

func (j *watchedJournal) Save(ctx context.Context, st job.State, event []byte) error {
	j.own.Lock()
	d := time.Duration(j.r.IntN(500)) * time.Millisecond
	j.own.Unlock()
	pauseFor(ctx, d)
	before := j.state(st.ID)
	err := j.journal.Save(ctx, st, event)
	if err != nil || before.Phase != job.Queued || st.Phase != job.Preflight {
		return err
	}
	j.own.Lock()
	defer j.own.Unlock()
	if j.busy() > j.most {
		j.over++
	}
	return nil
}

func TestRetriedJobsStartInTheOrderInWhichTheyWereQueuedAlsoAfterARestart(t *testing.T) {
	for name, restart := range map[string]bool{"one life": false, "restart": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, 1, func(w *world) {
				ids := map[string]job.ID{}
				for _, vm := range []string{"a", "b", "c"} {
					ids[vm] = w.submit(vm, job.Options{Verify: job.VerifyNone})
					w.pass(5 * time.Second)
					w.command(ids[vm], job.Cancel)
					w.pass(10 * time.Second)
				}
				if err := w.node.SetLimits(job.Limits{Jobs: 1}); err != nil {
					t.Fatal(err)
				}
				w.copies.SetLimits(job.Limits{Jobs: 1})
				first := w.submit("first", job.Options{Verify: job.VerifyNone})
				order := []string{"c", "a", "b"}
				for _, vm := range order {
					w.pass(time.Second)
					w.command(ids[vm], job.Retry)
				}
				for _, vm := range []string{"b", "c", "a"} {
					if err := w.node.Limit(t.Context(), ids[vm], job.Limited{Disks: new(2)}); err != nil {
						t.Fatal(err)
					}
				}
				if restart {
					w.stop()
					w.start()
				}
				w.pass(20 * time.Minute)
				w.want(first, job.Completed)
				var last time.Time
				for _, vm := range order {
					st := w.want(ids[vm], job.Completed)
					began := time.Time{} // of its last life
					for _, p := range st.Phases {
						if p.Phase == job.Preflight {
							began = p.StartedAt
						}
					}
					if !began.After(last) {
						t.Fatalf("%s did not start after the one before it: %+v", vm, st.Phases)
					}
					last = began
				}
			})
		})
	}
}
