package sim

import "github.com/vmferry/vmferry/job"

// Tracked is a tracked disk without bytes, for tests of tracking alone.
type Tracked struct {
	t         tracking
	allocated blocks
	capacity  int64
}

// NewTracked tracks from now on.
func NewTracked(capacity int64) *Tracked {
	d := &Tracked{allocated: newBlocks(capacity), capacity: capacity}
	d.t.on = true
	d.t.restart(capacity)
	return d
}

// Write notes a write.
func (d *Tracked) Write(from, to int64) {
	d.allocated.addBytes(from, to)
	d.t.written(from, to)
}

// Freeze does what a snapshot does.
func (d *Tracked) Freeze() *Frozen { return &Frozen{d.t.freeze(d.allocated, d.capacity)} }

// Frozen is what tracking knew at that instant.
type Frozen struct{ f *frozen }

// ChangeID names the instant.
func (f *Frozen) ChangeID() string { return f.f.changeID }

// Page answers a query.
func (f *Frozen) Page(since string, offset int64, most int, gaps bool) (job.Extents, int64, bool) {
	set, ok := f.f.since(since)
	if !ok {
		return nil, 0, false
	}
	areas, end := f.f.page(set, offset, most, gaps)
	return areas, end, true
}

// BlockSize is the size of tracked blocks in bytes.
const BlockSize = blockSize
