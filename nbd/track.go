package nbd

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/job"
)

// progressSnapshot is the progress of a copy at one instant: the ranges that the target has acknowledged, with counters
// and digests.
type progressSnapshot struct {
	done                 job.Extents // normal
	transferred, skipped int64       // bytes counted in done
	read                 int64       // bytes of data that this attempt has read; not kept in the checkpoint file
	sent                 int64       // bytes transferred by all attempts, bytes that were sent again included
	digests              *Digests    // of the ranges in done; nil if not wanted, or if an attempt made none
	tree                 *tree       // of the ranges in done; nil if not wanted, or if an attempt made none
	// in done, and not in digests: a part of their cells was taken over from an earlier copy. It never changes
	unhashed job.Extents
}

// bytes is how many bytes are done.
func (s progressSnapshot) bytes() int64 { return s.transferred + s.skipped }

// clone returns a copy that does not change with s.
func (s progressSnapshot) clone() progressSnapshot {
	s.done = slices.Clone(s.done)
	s.digests = s.digests.clone()
	s.tree = s.tree.clone()
	return s
}

// tracker collects the ranges that the target has acknowledged. It is safe for several threads.
type tracker struct {
	meter *Meter

	mu sync.Mutex
	progressSnapshot
	shown   int64 // bytes that the meter shows as done
	changed bool  // since the last progress snapshot was taken
}

// resume begins with the progress that an earlier attempt made durable.
func (t *tracker) resume(s progressSnapshot) {
	t.progressSnapshot = s.clone()
	t.meter.resumedTransferred.Add(s.transferred) // first: who reads the sums has read them without these, or has both
	t.meter.resumedSkipped.Add(s.skipped)
	t.meter.transferred.Add(s.transferred)
	t.meter.skipped.Add(s.skipped)
	t.meter.durable.Add(s.bytes())
	t.shown = s.bytes()
}

// fallBack returns to the durable progress. The meter does not go back: its counters only grow.
func (t *tracker) fallBack(durable progressSnapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sent := t.sent
	t.progressSnapshot = durable.clone()
	t.sent = sent
}

// hashes are the hashes of the bytes of one planned range.
type hashes struct {
	sums  []cellSum
	nodes []node
}

// add takes a planned range that is done; skipped of its bytes were zeros that did not travel.
func (t *tracker) add(pr plannedRange, skipped int64, h hashes) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.changed = true
	t.done = insert(t.done, job.Extent{Offset: pr.off, Length: pr.n})
	t.digests.add(h.sums)
	t.tree.add(h.nodes)
	if !pr.zero {
		t.read += pr.n
	}
	if pr.quiet {
		return
	}
	t.transferred += pr.n - skipped
	t.skipped += skipped
	t.sent += pr.n - skipped
	// The meter only grows, also after a fall back to the durable progress.
	more := t.progressSnapshot.bytes() - t.shown
	if more <= 0 {
		return
	}
	t.shown += more
	zeros := min(more, skipped)
	t.meter.skipped.Add(zeros)
	t.meter.transferred.Add(more - zeros)
}

// take returns a progress snapshot, and whether there was progress since the last one.
func (t *tracker) take() (progressSnapshot, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := t.changed
	t.changed = false
	return t.clone(), changed
}

// resent is how many bytes were sent more than once, as far as checkpoints tell.
func (t *tracker) resent() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent - t.transferred
}

// dataRead is how many bytes of the done data this attempt has read.
func (t *tracker) dataRead() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.read
}

// bytes is how many bytes are done.
func (t *tracker) bytes() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.progressSnapshot.bytes()
}

// insert adds an extent to a normal list in place. It must overlap none of the list. Chunks end nearly in order, so the
// place is nearly always the end.
func insert(x job.Extents, e job.Extent) job.Extents {
	i, _ := slices.BinarySearchFunc(x, e.Offset, func(a job.Extent, off int64) int {
		return int(min(1, max(-1, a.Offset-off)))
	})
	before := i > 0 && x[i-1].End() == e.Offset
	after := i < len(x) && x[i].Offset == e.End()
	switch {
	case before && after:
		x[i-1].Length += e.Length + x[i].Length
		return slices.Delete(x, i, i+1)
	case before:
		x[i-1].Length += e.Length
		return x
	case after:
		x[i] = job.Extent{Offset: e.Offset, Length: e.Length + x[i].Length}
		return x
	default:
		return slices.Insert(x, i, e)
	}
}

// Meter shows the progress of a copy or a verification. The engine writes it; any goroutine may read it at any time.
// The zero value is ready. Use one for each attempt.
type Meter struct {
	toTransfer, transferred, skipped      atomic.Int64
	resumedTransferred, resumedSkipped    atomic.Int64
	durable, verified, toVerify, requests atomic.Int64
	sourceWait, targetWait, throttleWait  atomic.Int64 // nanoseconds
	began, ended                          atomic.Int64 // times of clock; 0 for not yet
	sourceQuiet, targetQuiet              quiet
}

// Counters returns the present numbers. Each of them only grows. They are read one after the other, not at one instant:
// the sums before what of them was resumed, so that the difference is never too large.
func (m *Meter) Counters() job.Counters {
	transferred, skipped := m.transferred.Load(), m.skipped.Load()
	return job.Counters{
		ToTransfer:         m.toTransfer.Load(),
		Transferred:        transferred,
		Skipped:            skipped,
		ResumedTransferred: m.resumedTransferred.Load(),
		ResumedSkipped:     m.resumedSkipped.Load(),
		Durable:            m.durable.Load(),
		Verified:           m.verified.Load(),
		ToVerify:           m.toVerify.Load(),
		Requests:           m.requests.Load(),
		SourceWait:         time.Duration(m.sourceWait.Load()),
		TargetWait:         time.Duration(m.targetWait.Load()),
		ThrottleWait:       time.Duration(m.throttleWait.Load()),
		Elapsed:            m.elapsed(),
	}
}

// start begins the time that the waits are parts of; it returns the function that ends it.
func (m *Meter) start() (end func()) {
	m.began.CompareAndSwap(0, clock(time.Now()))
	return func() { m.ended.Store(clock(time.Now())) }
}

func (m *Meter) elapsed() time.Duration {
	began, ended := m.began.Load(), m.ended.Load()
	switch {
	case began == 0:
		return 0
	case ended == 0:
		ended = clock(time.Now())
	}
	return time.Duration(ended - began)
}

// Silence is for how long each side has given no sign of life although requests to it are under way; 0 if none is, and
// for the first second. A side of which one connection answers is not silent.
func (m *Meter) Silence() (source, target time.Duration) {
	now := time.Now()
	return m.sourceQuiet.silence(now), m.targetQuiet.silence(now)
}

// quiet is what the threads of a copy know about the silence of one side. Nothing is written to it while the side
// answers.
type quiet struct {
	waiting atomic.Int64 // threads that have heard nothing for a second and wait for an answer
	heard   atomic.Int64 // time of clock of the last sign of life; kept only while a thread waits
}

func (q *quiet) silence(now time.Time) time.Duration {
	if q.waiting.Load() == 0 {
		return 0
	}
	return max(0, time.Duration(clock(now)-q.heard.Load()))
}

// waits says that a thread, or another that has requests under way, has heard nothing since that time.
func (q *quiet) waits(since time.Time) {
	raise(&q.heard, clock(since))
	q.waiting.Add(1)
}

// asked says that a connection is being opened, until the function that it returns is called for the first time.
func (q *quiet) asked() (opened func()) {
	q.waits(time.Now())
	return sync.OnceFunc(q.over)
}

// over says that a thread that had called waits does not wait any more.
func (q *quiet) over() { q.waiting.Add(-1) }

// answers says that the side has given a sign of life.
func (q *quiet) answers(now time.Time) {
	if q.waiting.Load() > 0 {
		raise(&q.heard, clock(now))
	}
}

var clockStart = time.Now() //nolint:gochecknoglobals // a fixed point, never changed

// clock is a time that no change of the wall clock moves, in nanoseconds; never 0.
func clock(t time.Time) int64 { return int64(t.Sub(clockStart)) + 1 }

// raise sets a counter that must never go down.
func raise(n *atomic.Int64, to int64) {
	for {
		old := n.Load()
		if to <= old || n.CompareAndSwap(old, to) {
			return
		}
	}
}
