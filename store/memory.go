package store

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// ringSize is how many recent changes are kept for readers that come back, and how many deletions for readers that are
// slow. They cover some seconds of a busy node and many minutes of a quiet one.
const ringSize = 4096

// Memory is the projection within the process: the newest report of each job, and the recent reports. Methods may be
// called by many goroutines at once, and none waits for a reader.
//
// Readers are not registered. The jobs are in a list in the order of their last report, and a reader keeps the place up
// to which it has read: all entries after that place are new to it. So a slow reader costs nothing, and gets the newest
// report of each job at its next read. A job that was deleted has an entry of its own in the list.
type Memory struct {
	mu      sync.RWMutex
	jobs    map[job.ID]*entry
	shown   []*entry      // the job that was created last is the last one
	tail    *entry        // end of the list: the job that was reported or deleted last
	place   uint64        // of the last change taken; counts all of them
	deleted []*entry      // of jobs that were deleted, the newest last; at most ringSize
	lost    uint64        // place of the newest deletion that is not kept any more
	recent  ring          // ascending versions of one epoch
	wake    chan struct{} // closed, and replaced by a new one, when there are changes
}

// entry is the newest report of one job, or that a job was deleted.
type entry struct {
	report       *report.Report  // shared with readers, so it is never changed; nil in an entry of a deletion
	deleted      *report.Deleted // likewise; nil in an entry of a report
	place        uint64
	older, newer *entry // neighbours in the list, which is in the order of the last changes
}

func (e *entry) change() report.Change { return report.Change{Report: e.report, Deleted: e.deleted} }

// NewMemory makes an empty Memory.
func NewMemory() *Memory {
	return &Memory{jobs: map[job.ID]*entry{}, wake: make(chan struct{})}
}

// Publish takes reports, in any order. A report that is not newer than the known one of its job is left out. The error
// is always nil: the method has the signature that all projections share.
func (m *Memory) Publish(_ context.Context, reports []report.Report) error {
	byVersion := func(a, b report.Report) int { return compare(a.Version(), b.Version()) }
	if !slices.IsSortedFunc(reports, byVersion) {
		reports = slices.Clone(reports)
		slices.SortStableFunc(reports, byVersion)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := m.place
	for _, r := range reports {
		m.take(&r)
	}
	if m.place != before {
		m.tell()
	}
	return nil
}

// tell wakes the readers that wait.
func (m *Memory) tell() {
	close(m.wake)
	m.wake = make(chan struct{})
}

func (m *Memory) take(r *report.Report) {
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
	m.append(e)
}

// append puts an entry at the end of the list, and what is new in it among the recent changes.
func (m *Memory) append(e *entry) {
	m.place++
	e.place = m.place
	m.link(e)
	m.recent.add(e.change())
}

// Report returns the newest report of a job; NotFound if there is none.
func (m *Memory) Report(_ context.Context, id job.ID) (report.Report, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e := m.jobs[id]
	if e == nil {
		return report.Report{}, unknown("find job", id)
	}
	return *e.report, nil
}

// Reports returns the newest report of every job: the job that was created last comes first, those of the same moment
// in the falling order of their ids. All readers share the reports: none may change one.
func (m *Memory) Reports(context.Context) ([]*report.Report, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.all(), nil
}

// Each goes through the newest report of every job, in the order of Reports, or the other way round if oldest is true.
// No report is taken meanwhile, so the caller must be quick, and must not call the Memory. The reports are shared.
func (m *Memory) Each(oldest bool) iter.Seq[*report.Report] {
	return func(yield func(*report.Report) bool) {
		m.mu.RLock()
		defer m.mu.RUnlock()
		for i := range m.shown {
			if !oldest {
				i = len(m.shown) - 1 - i
			}
			if !yield(m.shown[i].report) {
				return
			}
		}
	}
}

func (m *Memory) all() []*report.Report {
	out := make([]*report.Report, 0, len(m.shown))
	for _, e := range slices.Backward(m.shown) {
		out = append(out, e.report)
	}
	return out
}

// Forget removes a job that was deleted, and tells the readers; if there is no such job, it does nothing. Readers get
// no more reports of the job. The deletion's version must be higher than those of the reports that were published.
func (m *Memory) Forget(d report.Deleted) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.jobs[d.JobID]
	if e == nil {
		return
	}
	delete(m.jobs, d.JobID)
	m.hide(e)
	m.unlink(e)
	gone := &entry{deleted: &d}
	m.append(gone)
	if len(m.deleted) >= ringSize {
		m.lost = m.deleted[0].place
		m.unlink(m.deleted[0])
		m.deleted = slices.Delete(m.deleted, 0, 1)
	}
	m.deleted = append(m.deleted, gone)
	m.tell()
}

// since returns the newest report of each job that was reported after place, and the deletions, in their order.
func (m *Memory) since(place uint64) (out []report.Change) {
	n, e := 0, m.tail
	for ; e != nil && e.place > place; e = e.older {
		n++
	}
	if n == 0 {
		return nil
	}
	out = make([]report.Change, n)
	for e = m.tail; n > 0; e = e.older {
		n--
		out[n] = e.change()
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

// byCreation orders entries by the creation of their jobs, then by ids.
func byCreation(a, b *entry) int {
	return cmp.Or(a.report.CreatedAt.Compare(b.report.CreatedAt), cmp.Compare(a.report.JobID, b.report.JobID))
}

func compare(a, b report.Version) int {
	return cmp.Or(cmp.Compare(a.Epoch, b.Epoch), cmp.Compare(a.Seq, b.Seq))
}

// Subscription follows the reports of a Memory. It has no goroutine and no buffer of its own, so one that is never
// closed costs only its few bytes. One goroutine calls Next and NextChanges; any goroutine may call Close.
type Subscription struct {
	memory *Memory
	place  uint64 // of the last report that this reader has read
	once   sync.Once
	closed chan struct{}
}

// Subscribe starts to follow, at one moment: nothing is lost or delivered twice between what Subscribe returns and what
// NextChanges returns. If every change after the version after is still kept (of this epoch, among the last 4096),
// resumed is true and missed holds them in order. Else, and for the zero version, snapshot holds the newest report of
// every job, as Reports returns it. Reports are shared as those of Reports are.
func (m *Memory) Subscribe(after report.Version) (snapshot []*report.Report, missed []report.Change, resumed bool,
	sub *Subscription,
) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	sub = &Subscription{memory: m, place: m.place, closed: make(chan struct{})}
	if after != (report.Version{}) {
		missed, resumed = m.recent.after(after)
	}
	if !resumed {
		return m.all(), nil, false, sub
	}
	missed = slices.DeleteFunc(missed, func(c report.Change) bool {
		return c.Report != nil && m.jobs[c.Report.JobID] == nil // the job was deleted meanwhile, which is missed too
	})
	return nil, missed, true, sub
}

// Next is NextChanges without the deletions: it waits until there is a report.
func (s *Subscription) Next(ctx context.Context) ([]*report.Report, error) {
	for {
		changes, err := s.next(ctx)
		if err != nil {
			return nil, err
		}
		out := make([]*report.Report, 0, len(changes))
		for _, c := range changes {
			if c.Report != nil {
				out = append(out, c.Report)
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
}

// NextChanges returns the newest report of each job that has changed since the last call, and the jobs that were
// deleted, in the order in which that came to be, which is ascending by version as long as there is one writer. Reports
// are shared, as with Memory.Reports. It waits until there is a change. It fails with Cancelled or Timeout when ctx
// ends, with Cancelled after Close, and with Conflict if the reader is so slow that deletions are not kept any more: it
// must subscribe anew then.
func (s *Subscription) NextChanges(ctx context.Context) ([]report.Change, error) {
	before := s.place
	out, err := s.next(ctx)
	if err == nil && before < s.memory.lostBefore() {
		return nil, job.Errorf("wait for reports", job.Conflict, "Subscribe anew",
			"more than %d jobs were deleted since the last look", ringSize)
	}
	return out, err
}

func (s *Subscription) next(ctx context.Context) ([]report.Change, error) {
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

// look returns the changes after place, the place of the last change, and a channel that is closed when there are more.
func (m *Memory) look(place uint64) (out []report.Change, upTo uint64, wake <-chan struct{}) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.since(place), m.place, m.wake
}

// lostBefore is the place of the newest deletion that is not kept any more.
func (m *Memory) lostBefore() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.lost
}

// Close ends a waiting Next and all later calls. It may be called more than once.
func (s *Subscription) Close() { s.once.Do(func() { close(s.closed) }) }
