package history_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store/history"
)

// tables take entries in memory, and can be away or hang.
type tables struct {
	mu    sync.Mutex
	err   error
	hang  bool
	calls int
	rows  map[job.ID]int64
}

func (s *tables) Record(ctx context.Context, entries []history.Entry) error {
	s.mu.Lock()
	err, hang := s.err, s.hang
	s.calls++
	s.mu.Unlock()
	if hang {
		<-ctx.Done()
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		for _, e := range entries {
			s.rows[e.Report.JobID] = e.Report.Seq
		}
	}
	return err
}

func (s *tables) set(err error, hang bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.hang = err, hang
}

func (s *tables) at(id job.ID) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rows[id]
}

func TestAWriterWritesTheNewestSoonAndNeverWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to := &tables{rows: map[job.ID]int64{}}
		w := history.NewWriter(t.Context(), to, slog.New(slog.DiscardHandler))
		pass := func(d time.Duration) { t.Helper(); <-time.After(d); synctest.Wait() }
		w.Offer(entry("job-1", 1))
		synctest.Wait()
		if to.at("job-1") != 1 {
			t.Error("the first entry waits")
		}
		to.set(nil, true)
		begin := time.Now()
		for seq := int64(2); seq < 1000; seq++ {
			w.Offer(entry("job-1", seq))
		}
		w.Offer(entry("job-1", 5)) // late
		if time.Since(begin) > 0 {
			t.Error("an offer waits")
		}
		pass(30 * time.Second)
		if h := w.Health(); !h.Down || h.Kind != job.Timeout || h.Since.After(begin.Add(6*time.Second)) {
			t.Errorf("the health of what hangs is %+v", h)
		}
		to.set(job.Errorf("record history", job.Unavailable, "Start it", "refused"), false)
		pass(30 * time.Second)
		if h := w.Health(); !h.Down || h.Next != "Start it" {
			t.Errorf("the health of what is away is %+v", h)
		}
		to.set(nil, false)
		pass(10 * time.Second)
		if h := w.Health(); h.Down || to.at("job-1") != 999 {
			t.Errorf("10 s after it is back it is %+v, at %d", h, to.at("job-1"))
		}
		before := to.calls
		for seq := int64(1000); seq < 1100; seq++ {
			w.Offer(entry("job-1", seq))
			pass(10 * time.Millisecond)
		}
		if n := to.calls - before; n > 7 {
			t.Errorf("%d calls in a second", n)
		}
		w.Offer(entry("job-1", 2000))
		w.Close(t.Context())
		if to.at("job-1") != 2000 {
			t.Error("the last entry is lost")
		}
	})
}
