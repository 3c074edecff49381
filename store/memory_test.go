package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

// publish publishes reports, as a node does: again if the sink had no time for them.
func publish(tb testing.TB, p projection, reports ...report.Report) {
	tb.Helper()
	var err error
	for range 10 {
		err = p.Publish(context.WithoutCancel(tb.Context()), reports)
		if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, context.DeadlineExceeded) {
			break
		}
	}
	if err != nil {
		tb.Fatalf("publish: %v", err)
	}
}

func versions(reports []report.Report) []string {
	out := []string{}
	for _, r := range reports {
		out = append(out, string(r.JobID)+"@"+r.Version().String())
	}
	return out
}

func wantVersions(tb testing.TB, what string, got []report.Report, want ...string) {
	tb.Helper()
	if diff := cmp.Diff(append([]string{}, want...), versions(got)); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func next(tb testing.TB, sub *store.Subscription) []report.Report {
	tb.Helper()
	got, err := sub.Next(tb.Context())
	must(tb, err)
	return values(got)
}

// values are the reports that readers share.
func values(shared []*report.Report) []report.Report {
	var out []report.Report
	for _, r := range shared {
		out = append(out, *r)
	}
	return out
}

func TestReportsAreListedNewestFirst(t *testing.T) {
	m := store.NewMemory()
	for i, id := range []job.ID{"b", "d", "a", "c"} {
		r := reportOf(id, 1, int64(i+1))
		r.CreatedAt = noon().Add(time.Duration(i/2) * time.Hour) // b and d, then a and c
		publish(t, m, r)
	}
	list := func(want ...string) {
		t.Helper()
		got, err := m.Reports(t.Context())
		must(t, err)
		wantVersions(t, "reports", values(got), want...)
	}
	list("c@1-4", "a@1-3", "d@1-2", "b@1-1")
	moved := reportOf("b", 1, 5)
	moved.CreatedAt = noon().Add(2 * time.Hour)
	publish(t, m, moved)
	list("b@1-5", "c@1-4", "a@1-3", "d@1-2")
	m.Forget(deletionOf("c", 1, 6))
	m.Forget(deletionOf("unknown", 1, 7))
	list("b@1-5", "a@1-3", "d@1-2")
	_, err := m.Report(t.Context(), "c")
	wantKind(t, err, job.NotFound)
}

func deletionOf(id job.ID, epoch, seq int64) report.Deleted {
	return report.Deleted{JobID: id, Epoch: epoch, Seq: seq, At: noon()}
}

// changed are the changes as texts.
func changed(changes []report.Change) []string {
	out := []string{}
	for _, c := range changes {
		text := string(c.JobID()) + "@" + c.Version().String()
		if c.Deleted != nil {
			text = "-" + text
		}
		out = append(out, text)
	}
	return out
}

func wantChanges(tb testing.TB, what string, got []report.Change, want ...string) {
	tb.Helper()
	if diff := cmp.Diff(append([]string{}, want...), changed(got)); diff != "" {
		tb.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func nextChanges(tb testing.TB, sub *store.Subscription) []report.Change {
	tb.Helper()
	got, err := sub.NextChanges(tb.Context())
	must(tb, err)
	return got
}

func TestAReaderIsToldThatAJobWasDeletedAndThatAnotherHasItsID(t *testing.T) {
	m := store.NewMemory()
	publish(t, m, reportOf("a", 1, 1), reportOf("b", 1, 2))
	_, _, _, sub := m.Subscribe(report.Version{})
	defer sub.Close()
	m.Forget(deletionOf("a", 1, 3))
	publish(t, m, reportOf("b", 1, 4))
	wantChanges(t, "what is new", nextChanges(t, sub), "-a@1-3", "b@1-4")
	publish(t, m, reportOf("a", 1, 5))
	wantChanges(t, "what is new later", nextChanges(t, sub), "a@1-5")
	_, missed, resumed, _ := m.Subscribe(report.Version{Epoch: 1, Seq: 1})
	if !resumed {
		t.Fatal("not resumed")
	}
	wantChanges(t, "missed", missed, "b@1-2", "-a@1-3", "b@1-4", "a@1-5")
}

func TestAReaderThatMissesMoreDeletionsThanAreKeptMustSubscribeAnew(t *testing.T) {
	m := store.NewMemory()
	_, _, _, slow := m.Subscribe(report.Version{})
	defer slow.Close()
	seq := int64(0)
	for range store.RingSize + 1 {
		publish(t, m, reportOf("a", 1, seq+1))
		m.Forget(deletionOf("a", 1, seq+2))
		seq += 2
	}
	_, err := slow.NextChanges(t.Context())
	wantKind(t, err, job.Conflict)
	publish(t, m, reportOf("b", 1, seq+1))
	wantChanges(t, "what is new after that", nextChanges(t, slow), "b@1-"+fmt.Sprint(seq+1))
}

func TestASlowReaderGetsTheNewestOfEachJob(t *testing.T) {
	m := store.NewMemory()
	_, _, _, sub := m.Subscribe(report.Version{})
	defer sub.Close()
	for seq := int64(1); seq <= 10_000; seq += 2 {
		publish(t, m, reportOf("b", 1, seq+1), reportOf("a", 1, seq)) // out of order within a batch
	}
	publish(t, m, reportOf("c", 1, 20_000), reportOf("gone", 1, 20_001))
	m.Forget(deletionOf("gone", 1, 20_001))
	wantVersions(t, "what is new", next(t, sub), "a@1-9999", "b@1-10000", "c@1-20000")
	publish(t, m, reportOf("a", 1, 20_002), reportOf("b", 1, 3))
	wantVersions(t, "what is new later", next(t, sub), "a@1-20002")
}

func TestAReaderGoesOnWhereItWas(t *testing.T) {
	m := store.NewMemory()
	publish(t, m, reportOf("old", 1, 7))
	last := int64(store.RingSize + 100)
	for seq := int64(1); seq <= last; seq++ {
		publish(t, m, reportOf(job.ID(fmt.Sprint("job-", seq%3)), 2, seq))
	}
	oldest := last - store.RingSize
	tests := []struct {
		name    string
		after   report.Version
		resumed bool
		missed  int
	}{
		{"nothing seen yet", report.Version{}, false, 0},
		{"nothing missed", report.Version{Epoch: 2, Seq: last}, true, 0},
		{"one missed", report.Version{Epoch: 2, Seq: last - 1}, true, 1},
		{"all that is kept", report.Version{Epoch: 2, Seq: oldest}, true, store.RingSize},
		{"one more than is kept", report.Version{Epoch: 2, Seq: oldest - 1}, false, 0},
		{"the writer before", report.Version{Epoch: 1, Seq: 7}, false, 0},
		{"the future", report.Version{Epoch: 2, Seq: last + 1}, false, 0},
		{"a writer to come", report.Version{Epoch: 3, Seq: 1}, false, 0},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			snapshot, missed, resumed, sub := m.Subscribe(tc.after)
			defer sub.Close()
			if resumed != tc.resumed || len(missed) != tc.missed {
				t.Fatalf("resumed %t with %d missed, want %t with %d", resumed, len(missed), tc.resumed, tc.missed)
			}
			if want := map[bool]int{true: 0, false: 4}[resumed]; len(snapshot) != want {
				t.Errorf("the snapshot has %d jobs, want %d", len(snapshot), want)
			}
			for i, c := range missed {
				if want := tc.after.Seq + int64(i) + 1; c.Version().Seq != want {
					t.Fatalf("missed report %d has seq %d, want %d", i, c.Version().Seq, want)
				}
			}
		})
	}
}

func TestAReportThatCameLateIsNotSkippedByResuming(t *testing.T) {
	m := store.NewMemory()
	publish(t, m, reportOf("a", 1, 5))
	publish(t, m, reportOf("b", 1, 3)) // of another job, after a higher version
	if _, _, resumed, _ := m.Subscribe(report.Version{Epoch: 1, Seq: 5}); resumed {
		t.Error("a reader that has seen 1-5 is resumed as if it had missed nothing")
	}
	publish(t, m, reportOf("a", 1, 6))
	_, missed, resumed, _ := m.Subscribe(report.Version{Epoch: 1, Seq: 6})
	if !resumed || len(missed) != 0 {
		t.Errorf("a reader that has seen 1-6: resumed %t, missed %v", resumed, changed(missed))
	}
}

func TestTheReportsOfADeletedJobAreNotAmongTheMissed(t *testing.T) {
	m := store.NewMemory()
	publish(t, m, reportOf("a", 1, 1), reportOf("b", 1, 2), reportOf("a", 1, 3))
	m.Forget(deletionOf("b", 1, 4))
	_, missed, resumed, _ := m.Subscribe(report.Version{Epoch: 1, Seq: 1})
	if !resumed {
		t.Fatal("not resumed")
	}
	wantChanges(t, "missed", missed, "a@1-3", "-b@1-4")
}

func TestNextEndsWithItsContextAndWithClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := store.NewMemory()
		_, _, _, sub := m.Subscribe(report.Version{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := sub.Next(ctx)
		wantKind(t, err, job.Timeout)
		ended := make(chan error)
		go func() {
			_, err := sub.Next(t.Context())
			ended <- err
		}()
		synctest.Wait()
		sub.Close()
		sub.Close()
		wantKind(t, <-ended, job.Cancelled)
		publish(t, m, reportOf("a", 1, 1))
		_, err = sub.Next(t.Context())
		wantKind(t, err, job.Cancelled)
	})
}

// For any reports, and any order in which readers read, leave and come back: a reader that has read everything knows
// exactly what the store knows, and it never got an older version of a job after a newer one.
func TestEveryReaderEndsUpWithTheTruth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { rapid.Check(bubble{t}, checkReaders) }) // a reader that waits costs no time
}

// bubble hides the Deadline method of a test, which must not be called in a synctest bubble.
type bubble struct{ rapid.TB }

func checkReaders(rt *rapid.T) {
	m := store.NewMemory()
	w := writer{epoch: 1}
	readers := make([]*reader, 3)
	for i := range readers {
		readers[i] = &reader{known: map[job.ID]report.Version{}}
	}
	steps := rapid.IntRange(1, 60).Draw(rt, "steps")
	for range steps {
		r := readers[rapid.IntRange(0, 2).Draw(rt, "reader")]
		switch rapid.IntRange(0, 9).Draw(rt, "step") {
		case 0, 1, 2, 3, 4:
			w.publish(rt, m)
		case 5:
			if rapid.Bool().Draw(rt, "restart") {
				w.epoch, w.seq = w.epoch+1, 0
			} else {
				w.delete(rt, m)
			}
		case 6:
			r.leave()
		default:
			r.read(rt, m)
		}
	}
	truth := map[job.ID]report.Version{}
	all, _ := m.Reports(rt.Context())
	for _, r := range all {
		truth[r.JobID] = r.Version()
	}
	for _, r := range readers {
		r.read(rt, m)
		r.leave()
		if diff := cmp.Diff(truth, r.known); diff != "" {
			rt.Fatalf("what a reader knows (-truth +known):\n%s", diff)
		}
	}
}

type writer struct{ epoch, seq int64 }

func (w *writer) publish(rt *rapid.T, m *store.Memory) {
	batch := make([]report.Report, rapid.IntRange(1, 5).Draw(rt, "batch"))
	if rapid.IntRange(0, 19).Draw(rt, "burst") == 0 {
		batch = make([]report.Report, store.RingSize+rapid.IntRange(-1, 1).Draw(rt, "over"))
	}
	job1 := rapid.IntRange(0, 7).Draw(rt, "job")
	for i := range batch {
		w.seq += 1 + int64(i%2)
		batch[i] = report.Report{
			JobID: job.ID(fmt.Sprint("job-", (job1+i)%8)), Epoch: w.epoch, Seq: w.seq,
			CreatedAt: noon(),
		}
	}
	if w.seq > 3 && rapid.IntRange(0, 5).Draw(rt, "late") == 0 { // a late report of another job
		batch = append(batch[:0], report.Report{JobID: "late", Epoch: w.epoch, Seq: w.seq - 2, CreatedAt: noon()})
	}
	_ = m.Publish(rt.Context(), batch)
}

func (w *writer) delete(rt *rapid.T, m *store.Memory) {
	w.seq++
	m.Forget(deletionOf(job.ID(fmt.Sprint("job-", rapid.IntRange(0, 7).Draw(rt, "deleted"))), w.epoch, w.seq))
}

// reader is a client: it remembers the last version that it got, as Last-Event-ID.
type reader struct {
	known map[job.ID]report.Version
	last  report.Version
	sub   *store.Subscription
}

func (r *reader) leave() {
	if r.sub != nil {
		r.sub.Close()
		r.sub = nil
	}
}

// read reads until there is nothing new.
func (r *reader) read(rt *rapid.T, m *store.Memory) {
	if r.sub == nil {
		snapshot, missed, resumed, sub := m.Subscribe(r.last)
		r.sub = sub
		if !resumed {
			r.known = map[job.ID]report.Version{}
			for _, s := range snapshot {
				r.known[s.JobID] = s.Version()
				if r.last.Less(s.Version()) {
					r.last = s.Version()
				}
			}
		}
		r.take(rt, missed)
	}
	ctx, cancel := context.WithTimeout(rt.Context(), time.Second)
	defer cancel()
	for {
		changes, err := r.sub.NextChanges(ctx)
		if err != nil {
			return // there is nothing new
		}
		r.take(rt, changes)
	}
}

func (r *reader) take(rt *rapid.T, changes []report.Change) {
	for _, c := range changes {
		if !r.known[c.JobID()].Less(c.Version()) {
			rt.Fatalf("got %s after %s of %s", c.Version(), r.known[c.JobID()], c.JobID())
		}
		r.last = c.Version()
		if c.Deleted != nil {
			delete(r.known, c.JobID())
		} else {
			r.known[c.JobID()] = c.Version()
		}
	}
}

func TestManyReadersAndWritersAtOnce(t *testing.T) {
	const readers, writers, rounds = 50, 4, 50
	m := store.NewMemory()
	var seq struct {
		sync.Mutex
		n int64
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wait sync.WaitGroup
	for range readers {
		wait.Go(func() {
			reports, _, _, sub := m.Subscribe(report.Version{})
			defer sub.Close()
			for done := 0; ; {
				for _, r := range reports {
					if r.Status.Terminal() {
						done++
					}
				}
				if done == writers {
					return
				}
				var err error
				if reports, err = sub.Next(ctx); err != nil {
					t.Errorf("next: %v", err)
					return
				}
			}
		})
	}
	for w := range writers {
		wait.Go(func() {
			for round := range rounds {
				seq.Lock()
				seq.n++
				r := reportOf(job.ID(fmt.Sprint("job-", w)), 1, seq.n)
				seq.Unlock()
				if round == rounds-1 {
					r = ended(r)
				}
				_ = m.Publish(ctx, []report.Report{r})
				_, _ = m.Reports(ctx)
				_, _ = m.Report(ctx, r.JobID)
			}
		})
	}
	wait.Wait()
}

// BenchmarkMemory has 10 000 jobs and 1000 readers. One iteration changes some of the jobs once, and every reader reads
// them. Four iterations a second are needed with some hundred changed jobs.
func BenchmarkMemory(b *testing.B) {
	for _, changed := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("changed=%d", changed), func(b *testing.B) {
			m := store.NewMemory()
			all := make([]report.Report, 10_000)
			for i := range all {
				all[i] = reportOf(job.ID(fmt.Sprint("job-", i)), 1, int64(i+1))
			}
			publish(b, m, all...)
			subs := make([]*store.Subscription, 1000)
			for i := range subs {
				_, _, _, subs[i] = m.Subscribe(report.Version{Epoch: 1, Seq: 10_000})
			}
			seq := int64(10_000)
			b.ResetTimer()
			for b.Loop() {
				batch := make([]report.Report, changed)
				for i := range batch {
					seq++
					batch[i] = all[i]
					batch[i].Seq = seq
				}
				publish(b, m, batch...)
				for _, s := range subs {
					if got := next(b, s); len(got) != changed {
						b.Fatal(len(got))
					}
				}
			}
		})
	}
}
