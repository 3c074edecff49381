package nbd

import (
	"slices"
	"sync"

	"github.com/vmferry/vmferry/job"
)

// progressSnapshot is what the target has acknowledged, at one instant.
type progressSnapshot struct {
	done                 job.Extents // normal
	transferred, skipped int64       // bytes counted in done
	read                 int64       // bytes of data that were read by this attempt; not kept in a file
	// bytes that were transferred by all attempts, those that had to be sent again included
	sent    int64
	digests *Digests // of what was read of done; nil if they are not wanted, or were not always
	tree    *tree    // likewise
}

// bytes is how much is done.
func (s progressSnapshot) bytes() int64 { return s.transferred + s.skipped }

// clone is for keeping: nothing of it changes any more.
func (s progressSnapshot) clone() progressSnapshot {
	s.done = slices.Clone(s.done)
	s.digests = s.digests.clone()
	s.tree = s.tree.clone()
	return s
}

// tracker collects what the target acknowledged. It is safe for several threads.
type tracker struct {
	meter *Meter

	mu sync.Mutex
	progressSnapshot
	shown   int64 // bytes that the meter shows as done
	changed bool  // since the last progressSnapshot was taken
}

// resume begins with what an earlier attempt made durable.
func (t *tracker) resume(s progressSnapshot) {
	t.progressSnapshot = s.clone()
	t.meter.transferred.Add(s.transferred)
	t.meter.skipped.Add(s.skipped)
	t.meter.resumedTransferred.Add(s.transferred)
	t.meter.resumedSkipped.Add(s.skipped)
	t.meter.durable.Add(s.bytes())
	t.shown = s.bytes()
}

// fallBack goes back to what is durable. The meter does not: what it shows is never less than before.
func (t *tracker) fallBack(durable progressSnapshot) {
	t.mu.Lock()
	defer t.mu.Unlock()
	sent := t.sent
	t.progressSnapshot = durable.clone()
	t.sent = sent
}

// hashes are what was made of the bytes of a plannedRange while they were at hand.
type hashes struct {
	sums  []cellSum
	nodes []node
}

// add takes a plannedRange that is finished; skipped of its bytes were zeros that did not travel.
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
	// What is shown only grows, also when a target that lost what was not flushed has made us fall back.
	more := t.progressSnapshot.bytes() - t.shown
	if more <= 0 {
		return
	}
	t.shown += more
	zeros := min(more, skipped)
	t.meter.skipped.Add(zeros)
	t.meter.transferred.Add(more - zeros)
}

// take returns the progressSnapshot, and whether it is another than last time.
func (t *tracker) take() (progressSnapshot, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := t.changed
	t.changed = false
	return t.clone(), changed
}

// resent is how much was sent more than once, as far as checkpoints tell.
func (t *tracker) resent() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sent - t.transferred
}

// dataRead is how much data of what is done this attempt has read.
func (t *tracker) dataRead() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.read
}

// bytes is how much is done.
func (t *tracker) bytes() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.progressSnapshot.bytes()
}

// insert adds an extent that overlaps none of a normal list, in place. Work comes nearly in order, so it is nearly
// always at the end.
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
