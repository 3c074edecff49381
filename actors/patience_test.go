package actors_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// away is one outage: of what, and in which phase of which round it begins.
type away struct {
	peer  job.Peer
	phase job.Phase
	round int // 1 goes full, 2 is incremental, 3 is the last one
	hung  bool
	start bool // the daemon is started again in the middle
}

func (a away) String() string {
	name := fmt.Sprintf("%s in %s of round %d", a.peer, a.phase, a.round)
	if a.hung {
		name += ", without an answer"
	}
	if a.start {
		name += ", with a restart"
	}
	return name
}

// of is the outage in that world.
func (a away) of(w *world) *outage {
	return map[job.Peer]*outage{
		job.PeerVCenter: &w.vcenter.outage, job.PeerSource: &w.copies.source, job.PeerTarget: &w.targets.outage,
	}[a.peer]
}

// begin brings a job into the phase of the round, and begins the outage.
func (a away) begin(w *world) job.ID {
	w.t.Helper()
	if a.phase == job.Connect { // whose steps take no time here
		w.vcenter.after = func(what string) {
			if what == "snapshot" && w.vcenter.taken == a.round-1 {
				a.of(w).begin(a.hung)
			}
		}
	}
	id := w.submit("web", job.Options{Cutover: job.CutoverManual, Verify: job.VerifyFull})
	for n := 2; n <= a.round; n++ {
		w.until(id, func(st job.State) bool { return st.Phase == job.Waiting && st.Round() == n-1 })
		w.command(id, map[int]job.Verb{2: job.Sync, 3: job.CutoverNow}[n])
	}
	w.until(id, func(st job.State) bool { return st.Phase == a.phase && max(1, st.Round()) == a.round })
	if a.phase != job.Connect {
		a.of(w).begin(a.hung)
	}
	return id
}

// until lets time pass until a job is as wanted, for at most ten minutes.
func (w *world) until(id job.ID, ok func(job.State) bool) {
	w.t.Helper()
	for range 6000 {
		if ok(w.journal.state(id)) {
			return
		}
		w.pass(100 * time.Millisecond)
	}
	w.t.Fatalf("the job is in %s of round %d", w.journal.state(id).Phase, w.journal.state(id).Round())
}

// report makes sure that the newest report is of now.
func (w *world) report() report.Report {
	w.pass(2 * w.tick)
	return w.page.last()
}

// patience is how long a job waits in that round, and how long the outage of the tests is.
func (a away) patience() (patience, outage time.Duration, key string) {
	if a.round == 3 {
		return 10 * time.Minute, 9 * time.Minute, "limits.last_round_patience"
	}
	return 4 * time.Hour, 3*time.Hour + 50*time.Minute, "limits.patience"
}

// says checks that the report tells of the wait.
func (a away) says(w *world, began time.Time) {
	w.t.Helper()
	r, now := w.report(), time.Now()
	patience, _, key := a.patience()
	v := r.Wait
	if v == nil {
		w.t.Fatalf("after %v the report says nothing of a wait: %s, %v", now.Sub(began), r.Operation, r.Health)
	}
	// A restart in the middle of a try leaves out the time since the failure before it: a pause of at most 30 s, and
	// what the try has taken.
	leftOut := time.Duration(0)
	if a.start {
		leftOut = 40 * time.Second
	}
	if v.For != string(a.peer) || v.Since.Sub(began).Abs() > 20*time.Second || !strings.Contains(v.Key, key) ||
		v.Message == "" || v.Until == nil || v.Until.Before(v.Since.Add(patience)) ||
		v.Until.After(v.Since.Add(patience+leftOut)) {
		w.t.Errorf("after %v the wait is %+v until %v, want for %s since %v by %s", now.Sub(began), *v, v.Until, a.peer,
			began, key)
	}
	if !slices.Contains(r.Health, report.Unavailable) || r.WaitingFor != string(a.peer) || r.Status != job.Running {
		w.t.Errorf("it is %s with health %v and waits for %q", r.Status, r.Health, r.WaitingFor)
	}
	if !strings.Contains(r.Operation, "waits for "+a.peer.Name()+" since ") ||
		r.Snapshot != nil && !strings.Contains(r.Operation, "; the snapshot is kept, and is ") {
		w.t.Errorf("operation %q", r.Operation)
	}
}

// inEveryRun says whether an outage in that phase of an earlier round than the last one is tested in every run. Each
// takes four hours of virtual time, so the others are tested where VMFERRY_LONG is set, as in make outage.
func inEveryRun(round int, phase job.Phase) bool {
	return os.Getenv("VMFERRY_LONG") != "" || phase == job.Transfer ||
		round == 1 && (phase == job.Preflight || phase == job.Connect || phase == job.Verify)
}

// outages are those of each peer in each phase of each round that needs it.
func outages() (all []away) {
	phases := map[job.Peer][]job.Phase{
		job.PeerVCenter: {
			job.Preflight, job.EnablingCBT, job.Snapshot, job.Connect, job.Transfer, job.Verify, job.Commit,
		},
		job.PeerSource: {job.Transfer, job.Verify},
		job.PeerTarget: {job.Connect, job.Transfer, job.Verify, job.Commit},
	}
	for _, peer := range []job.Peer{job.PeerVCenter, job.PeerSource, job.PeerTarget} {
		for _, phase := range phases[peer] {
			for round := 1; round <= 3; round++ {
				first := phase == job.Preflight || phase == job.EnablingCBT
				if round > 1 && first || round < 3 && !inEveryRun(round, phase) {
					continue
				}
				all = append(all, away{peer: peer, phase: phase, round: round})
			}
		}
	}
	return append(all,
		away{peer: job.PeerVCenter, phase: job.Snapshot, round: 1, hung: true},
		away{peer: job.PeerVCenter, phase: job.Commit, round: 3, hung: true},
		away{peer: job.PeerVCenter, phase: job.Connect, round: 1, start: true},
		away{peer: job.PeerSource, phase: job.Transfer, round: 2, start: true},
		away{peer: job.PeerTarget, phase: job.Verify, round: 3, start: true})
}

func inSlowWorld(t *testing.T, f func(w *world)) {
	t.Helper()
	inWorld(t, 2, func(w *world) {
		w.stop()
		w.tick = 3 * time.Second
		w.start()
		f(w)
	})
}

func TestAJobWaitsForWhatIsUnavailableAndGoesOnByItself(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	for _, a := range outages() {
		t.Run(a.String(), func(t *testing.T) {
			t.Parallel()
			inSlowWorld(t, func(w *world) {
				id := a.begin(w)
				began := time.Now()
				_, length, _ := a.patience()
				w.pass(40 * time.Second)
				a.says(w, began)
				w.pass(time.Until(began.Add(length / 2)))
				a.says(w, began)
				if a.start {
					w.stop()
					w.start()
					w.pass(3 * time.Second)
					a.says(w, began)
				}
				w.pass(time.Until(began.Add(length - 10*time.Second)))
				a.says(w, began)
				w.pass(time.Until(began.Add(length)))
				a.of(w).end()
				moved := time.Now()
				// A hung call ends two minutes after its begin; a pause takes at most 30 s.
				w.pass(6 * time.Minute)
				want := job.Waiting
				if a.round == 3 {
					want = job.Completed
				}
				st := w.want(id, want)
				if r := w.report(); r.Wait != nil || len(r.Health) > 0 || st.Round() != a.round {
					t.Errorf("%v after the end it says %+v, %v in round %d", time.Since(moved), r.Wait, r.Health,
						st.Round())
				}
				for _, r := range st.Rounds {
					if r.EndedAt.IsZero() || r.Counters.Transferred+r.Counters.Skipped != r.Counters.ToTransfer {
						t.Errorf("round %+v", r)
					}
				}
				if w.vcenter.count() != 0 {
					t.Error("a snapshot is left")
				}
			})
		})
	}
}

func TestBeyondThePatienceAJobFailsAndNamesSinceWhenAndTheKey(t *testing.T) {
	t.Parallel()
	for _, a := range outages() {
		if a.start {
			continue
		}
		t.Run(a.String(), func(t *testing.T) {
			t.Parallel()
			inSlowWorld(t, func(w *world) {
				id := a.begin(w)
				began := time.Now()
				patience, _, key := a.patience()
				w.pass(patience - 2*time.Minute)
				a.says(w, began)
				w.pass(7 * time.Minute) // a hung call ends two minutes after its begin, and the last one follows it
				st := w.journal.state(id)
				if st.Failure == nil || st.Outcome != job.Failed {
					t.Fatalf("it is in %s, failure %+v", st.Phase, st.Failure)
				}
				f := st.Failure
				for _, words := range []string{"waited for " + a.peer.Name() + " since 20", " UTC", key} {
					if !strings.Contains(f.Message, words) {
						t.Errorf("the failure does not say %q: %s", words, f.Message)
					}
				}
				if !strings.Contains(f.Next, "vmferry retry "+string(id)) || !strings.Contains(f.Next, key) {
					t.Errorf("next %q", f.Next)
				}
				a.of(w).end()
				w.pass(3 * time.Minute)
				w.want(id, job.Failed)
				if w.vcenter.count() != 0 {
					t.Error("a snapshot is left")
				}
				w.command(id, job.Retry)
				w.pass(5 * time.Minute)
				w.want(id, job.Waiting)
			})
		})
	}
}

func TestACallWithoutAnAnswerShowsWithinSixSeconds(t *testing.T) {
	for _, phase := range []job.Phase{job.Preflight, job.Snapshot, job.Connect, job.Commit} {
		t.Run(string(phase), func(t *testing.T) {
			inWorld(t, 2, func(w *world) {
				a := away{peer: job.PeerVCenter, phase: phase, round: 1, hung: true}
				a.begin(w)
				w.pass(time.Second) // the call begins
				w.pass(report.SilentAfter)
				r := w.page.last()
				if r.Wait == nil || r.Wait.For != "vcenter" || !slices.Contains(r.Health, report.Silent) {
					t.Fatalf("it says %+v, %v: %s", r.Wait, r.Health, r.Operation)
				}
				since := r.Wait.Since
				w.pass(3 * time.Minute) // the call ends by its deadline, and is tried again
				if r := w.page.last(); r.Wait == nil || !r.Wait.Since.Equal(since) {
					t.Errorf("after the call it says %+v, and said since %v", r.Wait, since)
				}
				a.of(w).end()
				w.pass(5 * time.Minute)
				if r := w.page.last(); r.Wait != nil || len(r.Health) > 0 || r.Status != job.WaitingCutover {
					t.Errorf("it is %s and says %+v, %v", r.Status, r.Wait, r.Health)
				}
			})
		})
	}
}

func TestADiskThatWaitsHoldsNoPermit(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		if err := w.node.SetLimits(job.Limits{Jobs: 2, Disks: 1}); err != nil {
			t.Fatal(err)
		}
		w.copies.failDisk("disk-2000", 20, job.At(job.PeerSource, unavailable("refused")))
		id := w.submit("web", job.Options{})
		w.until(id, func(st job.State) bool { return st.Phase == job.Transfer })
		w.copies.source.begin(false)
		w.pass(2 * time.Minute)
		busy := 0
		for range 600 {
			w.pass(100 * time.Millisecond)
			if _, hosts := w.node.Limits(); len(hosts) > 0 && hosts[0].Disks > 0 {
				busy++
			}
		}
		// Two disks try for a second each, every 15 s to 30 s.
		if busy > 120 {
			t.Errorf("in %d of 600 moments a disk that waits has the permit", busy)
		}
		w.copies.source.end()
		w.pass(5 * time.Minute)
		w.want(id, job.Completed)
	})
}

func TestAPauseAndACancelWorkAtOnceWhileAJobWaits(t *testing.T) {
	for _, a := range []away{
		{peer: job.PeerSource, phase: job.Transfer, round: 1},
		{peer: job.PeerVCenter, phase: job.Snapshot, round: 1},
		{peer: job.PeerVCenter, phase: job.Snapshot, round: 1, hung: true},
	} {
		t.Run(a.String(), func(t *testing.T) {
			inWorld(t, 2, func(w *world) {
				id := a.begin(w)
				w.pass(10 * time.Minute)
				if a.phase == job.Transfer {
					w.command(id, job.Pause)
					w.pass(5 * time.Hour) // does not count
					if r := w.page.last(); r.Status != job.Paused || r.Wait != nil {
						t.Errorf("it is %s and waits: %+v", r.Status, r.Wait)
					}
					w.command(id, job.Resume)
					w.pass(time.Minute)
					if r := w.page.last(); r.Status != job.Running || r.Wait == nil {
						t.Errorf("it is %s and waits: %+v", r.Status, r.Wait)
					}
				}
				w.command(id, job.Cancel)
				w.pass(time.Second)
				if st := w.journal.state(id); st.Phase != job.Cleanup && st.Phase != job.PhaseCancelled {
					t.Errorf("a second after the cancel it is in %s", st.Phase)
				}
				a.of(w).end()
				w.pass(3 * time.Minute)
				w.want(id, job.PhaseCancelled)
			})
		})
	}
}

func TestTheRemovalOfASnapshotWaitsWithoutEndAndSaysSo(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{})
		w.until(id, func(st job.State) bool { return st.Phase == job.Cleanup })
		w.vcenter.begin(false)
		began := time.Now()
		w.pass(3 * time.Hour)
		r := w.page.last()
		if r.Wait == nil || r.Wait.Until != nil || r.Wait.Since.Sub(began).Abs() > 10*time.Second ||
			r.Wait.Message == "" || !strings.Contains(r.Operation, "is 3h") {
			t.Errorf("it says %+v: %s", r.Wait, r.Operation)
		}
		w.vcenter.end()
		w.pass(time.Minute)
		w.want(id, job.Completed)
	})
}

func TestThePatienceOfARunningJobCanBeChanged(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		a := away{peer: job.PeerVCenter, phase: job.Snapshot, round: 1}
		id := a.begin(w)
		w.pass(3 * time.Hour)
		longer, shorter := 8*time.Hour, time.Minute
		if err := w.node.Limit(t.Context(), id, job.Limited{Patience: &longer}); err != nil {
			t.Fatal(err)
		}
		w.pass(3 * time.Hour)
		w.want(id, job.Snapshot)
		if err := w.node.Limit(t.Context(), id, job.Limited{Patience: &shorter}); err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
		if st := w.journal.state(id); st.Failure == nil || st.Outcome != job.Failed {
			t.Errorf("it is in %s", st.Phase)
		}
		a.of(w).end()
		w.pass(time.Minute)
		synctest.Wait()
	})
}
