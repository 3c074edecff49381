package store

import (
	"context"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Subscription follows the reports of a Memory. It has no goroutine and no buffer of its own, so one that is never
// closed costs only its few bytes. One goroutine calls Next; any goroutine may call Close.
type Subscription struct {
	memory *Memory
	place  uint64 // of the last report that this reader has read
	once   sync.Once
	closed chan struct{}
}

// Subscribe starts to follow, at one moment: no report is lost or delivered twice between what Subscribe returns and
// what Next returns. If every report after the version after is still kept (of this epoch, among the last 4096),
// resumed is true and missed holds them in order. Else, and for the zero version, snapshot holds the newest report of
// every job, as Reports returns it.
func (m *Memory) Subscribe(after report.Version) (snapshot, missed []report.Report, resumed bool, sub *Subscription) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	sub = &Subscription{memory: m, place: m.place, closed: make(chan struct{})}
	if after != (report.Version{}) {
		missed, resumed = m.recent.after(after)
	}
	if !resumed {
		return m.all(), nil, false, sub
	}
	missed = slices.DeleteFunc(missed, func(r report.Report) bool {
		return m.jobs[r.JobID] == nil // the job was deleted meanwhile
	})
	return nil, missed, true, sub
}

// Next returns the newest report of each job that has changed since the last call, in the order in which they were
// published, which is ascending by version as long as there is one writer. It waits until there is a report. It fails
// with Cancelled or Timeout when ctx ends, or with Cancelled after Close.
func (s *Subscription) Next(ctx context.Context) ([]report.Report, error) {
	const op = "wait for reports"
	for {
		out, place, wake := s.memory.look(s.place)
		select {
		case <-s.closed:
			return nil, job.Errorf(op, job.Cancelled, "", "the subscription is closed")
		default:
		}
		if err := ctx.Err(); err != nil {
			return nil, &job.Error{Op: op, Kind: job.KindOf(err), Err: err}
		}
		s.place = place
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-wake:
		case <-s.closed:
		case <-ctx.Done():
		}
	}
}

// look returns the reports after place, the place of the last report, and a channel that is closed when there are more.
func (m *Memory) look(place uint64) (out []report.Report, upTo uint64, wake <-chan struct{}) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.since(place), m.place, m.wake
}

// Close ends a waiting Next and all later calls. It may be called more than once.
func (s *Subscription) Close() { s.once.Do(func() { close(s.closed) }) }
