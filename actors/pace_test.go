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

// How late rows may be.
const (
	rowInterval = 2 * time.Second
	lateStatus  = 500 * time.Millisecond
	lateNumbers = rowInterval + 500*time.Millisecond
	latePolled  = 6 * time.Second
)

// timed keeps each report with the time at which it was taken.
type timed struct {
	takes time.Duration // of each call

	mu  sync.Mutex
	all []taken
	how func(context.Context) error // what a call does while something is wrong; nil while nothing is
}

type taken struct {
	at time.Time
	report.Report
}

func (*timed) Name() string { return "timed" }

func (s *timed) Publish(ctx context.Context, all []report.Report) error {
	pauseFor(ctx, s.takes)
	s.mu.Lock()
	how := s.how
	s.mu.Unlock()
	if how != nil {
		if err := how(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range all {
		s.all = append(s.all, taken{time.Now(), r})
	}
	return nil
}

func (s *timed) set(how func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.how = how
}

// of is all that was taken of a job.
func (s *timed) of(id job.ID) (out []taken) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.all {
		if r.JobID == id {
			out = append(out, r)
		}
	}
	return out
}

// at is what the row of a job showed at a time.
func (s *timed) at(id job.ID, at time.Time) (last report.Report) {
	for _, r := range s.of(id) {
		if !r.at.After(at) {
			last = r.Report
		}
	}
	return last
}

// atOnce has each report when it is made.
type atOnce struct{ timed }

func (*atOnce) Immediate() {}

// table is a sink as the history is: with a pace, and with calls that take a while. It may come back older or empty.
type table struct{ timed }

func (*table) Volatile() {}

func (*table) Pace() (time.Duration, float64) { return rowInterval, 100 }

func (*table) ExternalPace() (numbers, state time.Duration) { return rowInterval, 0 }

// notLate compares what the table had of a job with what was so.
func notLate(t *testing.T, id job.ID, so *atOnce, rows *table) {
	t.Helper()
	all, last := so.of(id), report.Report{}
	if len(all) == 0 {
		t.Errorf("there is no report of %s", id)
	}
	for _, r := range all {
		if late := rows.at(id, r.at.Add(lateStatus)); (r.Status != last.Status || r.Phase != last.Phase) &&
			late.Version().Less(r.Version()) {
			t.Errorf("%s: %v after it was %s its row is of %s", id, lateStatus, r.Status, late.Status)
		}
		late := rows.at(id, r.at.Add(lateNumbers))
		if late.Round < r.Round || late.Round == r.Round && late.BytesTransferred < r.BytesTransferred {
			t.Errorf("%s: %v after it had %d bytes its row has %d", id, lateNumbers, r.BytesTransferred,
				late.BytesTransferred)
		}
		last = r.Report
	}
}

func inTable(t *testing.T, nodes []actors.WatchedNode, f func(w *world, so *atOnce, rows *table)) {
	t.Helper()
	inWorld(t, 2, func(w *world) {
		w.stop()
		so, rows := &atOnce{}, &table{timed{takes: 100 * time.Millisecond}}
		w.more = []actors.Sink{so, rows}
		w.startWith(func(d *actors.Deps) { d.Nodes = nodes })
		f(w, so, rows)
	})
}

func TestTheRowOfAJobShowsAStatusWithinHalfASecondAndNumbersWithinAnInterval(t *testing.T) {
	inTable(t, nil, func(w *world, so *atOnce, rows *table) {
		id := w.submit("web", job.Options{Verify: job.VerifyNone, Cutover: job.CutoverManual})
		w.pass(21300 * time.Millisecond)
		w.command(id, job.Pause)
		w.pass(3 * time.Second)
		w.command(id, job.Resume)
		w.pass(5 * time.Minute)
		w.command(id, job.CutoverNow)
		w.pass(5 * time.Minute)
		w.want(id, job.Completed)
		notLate(t, id, so, rows)
		if n := len(rows.of(id)); n > 300 {
			t.Errorf("the table had %d reports", n)
		}
	})
}

func TestTheRowOfAJobOfOurVMAIsNotLaterThanThatOfAnOwnJob(t *testing.T) {
	p := &ours{}
	inTable(t, []actors.WatchedNode{{Name: "vma-1", Peer: p}}, func(w *world, so *atOnce, rows *table) {
		w.pass(time.Second)
		p.send(actors.PeerEvent{Snapshot: true, Jobs: []report.Report{of("a", 1, job.Pending, 0)}})
		for seq := range int64(37) { // it stops in the middle of an interval, and the node says no more
			p.send(actors.PeerEvent{Jobs: []report.Report{of("a", 2+seq, job.Running, 10*seq)}})
			w.pass(250 * time.Millisecond)
		}
		w.pass(10 * time.Second)
		p.send(actors.PeerEvent{Jobs: []report.Report{of("a", 100, job.StatusCompleted, 400)}})
		w.pass(time.Second)
		notLate(t, "a", so, rows)
		if n := len(rows.of("a")); n > 15 {
			t.Errorf("the table had %d reports", n)
		}
	})
}

func TestTheRowOfAPolledJobIsAtMostSixSecondsLate(t *testing.T) {
	vma := newOldVMA()
	vma.takes = 200 * time.Millisecond
	nodes := []actors.WatchedNode{{Name: "old", Old: vma, Jobs: []job.ID{"a"}}}
	inTable(t, nodes, func(w *world, so *atOnce, rows *table) {
		began := time.Now()
		bytes := func(at time.Time) int64 { return min(1000, 10*int64(at.Sub(began)/time.Second)) }
		vma.set("a", func() (report.Polled, bool, error) {
			n := bytes(time.Now())
			if n == 1000 {
				return is(job.StatusCompleted, n, 1000)()
			}
			return is(job.Running, n, 1000)()
		})
		w.pass(2 * time.Minute)
		for at := began.Add(latePolled); at.Before(time.Now()); at = at.Add(100 * time.Millisecond) {
			want := bytes(at.Add(-latePolled))
			if r := rows.at("a", at); r.BytesTransferred < want || want == 1000 && r.Status != job.StatusCompleted {
				t.Errorf("after %v the VMA had %d bytes, and %v later the row has %d, %s",
					at.Add(-latePolled).Sub(began), want, latePolled, r.BytesTransferred, r.Status)
			}
		}
		notLate(t, "a", so, rows)
	})
}

func TestAllRowsAreRightTenSecondsAfterTheirDatabaseIsBack(t *testing.T) {
	for name, how := range map[string]func(context.Context) error{
		"refuses": func(context.Context) error { return unavailable("1290 read-only") },
		"hangs":   func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"is slow": func(ctx context.Context) error { pauseFor(ctx, 3*time.Second); return unavailable("1205 lock") },
	} {
		t.Run(name, func(t *testing.T) {
			inTable(t, nil, func(w *world, so *atOnce, rows *table) {
				var ids []job.ID
				for _, vm := range []string{"web", "mail", "db"} {
					ids = append(ids, w.submit(vm, job.Options{Verify: job.VerifyNone, Cutover: job.CutoverManual}))
				}
				w.pass(20 * time.Second)
				rows.set(how)
				w.pass(20 * time.Second)
				w.command(ids[1], job.Cancel)
				w.pass(5*time.Minute + 700*time.Millisecond)
				if all := so.of(ids[0]); !slices.Contains(all[len(all)-1].Health, report.Degraded) {
					t.Errorf("the job shows %v", all[len(all)-1].Health)
				}
				rows.set(nil)
				back := time.Now()
				w.pass(10 * time.Second)
				for _, id := range ids {
					want, got := so.at(id, back), rows.at(id, back.Add(10*time.Second))
					if got.Version().Less(want.Version()) || got.Status != want.Status {
						t.Errorf("the row of %s is at %s, %s; the job was at %s, %s", id, got.Version(), got.Status,
							want.Version(), want.Status)
					}
				}
			})
		})
	}
}
