package store

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// ringSize is how many recent reports are kept for readers that come back. They cover some seconds of a busy node and
// many minutes of a quiet one.
const ringSize = 4096

// Memory is the projection within the process: the newest report of each job, and the recent reports. Methods may be
// called by many goroutines at once, and none waits for a reader.
//
// Readers are not registered. The jobs are in a list in the order of their last report, and a reader keeps the place up
// to which it has read: all entries after that place are new to it. So a slow reader costs nothing, and gets the newest
// report of each job at its next read.
type Memory struct {
	mu     sync.RWMutex
	jobs   map[job.ID]*entry
	shown  []*entry      // the job that was created last comes first
	tail   *entry        // end of the list: the job that was reported last
	place  uint64        // of the last report taken; counts all of them
	recent ring          // ascending versions of one epoch
	wake   chan struct{} // closed, and replaced by a new one, when there are new reports
}

// entry is the newest report of one job.
type entry struct {
	report       report.Report
	place        uint64
	older, newer *entry // neighbours in the list, which is in the order of the last reports
}

// NewMemory makes an empty Memory.
func NewMemory() *Memory {
	return &Memory{jobs: map[job.ID]*entry{}, wake: make(chan struct{})}
}

// Publish takes reports, in any order. A report that is not newer than the known one of its job is left out. The error
// is always nil: the method has the signature that all projections share.
func (m *Memory) Publish(_ context.Context, reports []report.Report) error {
	reports = slices.Clone(reports)
	slices.SortStableFunc(reports, func(a, b report.Report) int { return compare(a.Version(), b.Version()) })
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.place
	for _, r := range reports {
		m.take(r)
	}
	if m.place != before {
		close(m.wake)
		m.wake = make(chan struct{})
	}
	return nil
}

func (m *Memory) take(r report.Report) {
	e := m.jobs[r.JobID]
	switch {
	case e == nil:
		e = &entry{report: r}
		m.jobs[r.JobID] = e
		m.show(e)
	case !e.report.Version().Less(r.Version()):
		return
	case e.report.CreatedAt.Equal(r.CreatedAt):
		m.unlink(e)
		e.report = r
	default:
		m.hide(e)
		m.unlink(e)
		e.report = r
		m.show(e)
	}
	m.place++
	e.place = m.place
	m.link(e)
	m.recent.add(r)
}

// Report returns the newest report of a job; NotFound if there is none.
func (m *Memory) Report(_ context.Context, id job.ID) (report.Report, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e := m.jobs[id]
	if e == nil {
		return report.Report{}, unknown("find job", id)
	}
	return e.report, nil
}

// Reports returns the newest report of every job: the job that was created last comes first, those of the same moment
// in the falling order of their ids.
func (m *Memory) Reports(context.Context) ([]report.Report, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.all(), nil
}

func (m *Memory) all() []report.Report {
	out := make([]report.Report, len(m.shown))
	for i, e := range m.shown {
		out[i] = e.report
	}
	return out
}

// Forget removes a job that was deleted; if there is none, it does nothing. Readers get no more reports of the job.
func (m *Memory) Forget(id job.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.jobs[id]; e != nil {
		delete(m.jobs, id)
		m.hide(e)
		m.unlink(e)
	}
}

// since returns the newest report of each job that was reported after place, in the order of the reports.
func (m *Memory) since(place uint64) (out []report.Report) {
	n, e := 0, m.tail
	for ; e != nil && e.place > place; e = e.older {
		n++
	}
	if n == 0 {
		return nil
	}
	out = make([]report.Report, n)
	for e = m.tail; n > 0; e = e.older {
		n--
		out[n] = e.report
	}
	return out
}

// link appends e to the list.
func (m *Memory) link(e *entry) {
	e.older, e.newer = m.tail, nil
	if m.tail != nil {
		m.tail.newer = e
	}
	m.tail = e
}

func (m *Memory) unlink(e *entry) {
	if e.older != nil {
		e.older.newer = e.newer
	}
	if e.newer != nil {
		e.newer.older = e.older
	} else {
		m.tail = e.older
	}
	e.older, e.newer = nil, nil
}

func (m *Memory) show(e *entry) {
	at, _ := slices.BinarySearchFunc(m.shown, e, byCreation)
	m.shown = slices.Insert(m.shown, at, e)
}

func (m *Memory) hide(e *entry) {
	if at, ok := slices.BinarySearchFunc(m.shown, e, byCreation); ok {
		m.shown = slices.Delete(m.shown, at, at+1)
	}
}

// byCreation orders entries: the job that was created last comes first, then falling ids.
func byCreation(a, b *entry) int {
	return cmp.Or(b.report.CreatedAt.Compare(a.report.CreatedAt), cmp.Compare(b.report.JobID, a.report.JobID))
}

func compare(a, b report.Version) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
}
