package nbd

import (
	"github.com/vmferry/vmferry/job"
)

// inheritUnit is what a copy takes over of an earlier one in whole, in bytes: no server has larger blocks, and it is a
// multiple of the unit of the digests.
const inheritUnit = 64 << 10

// Inherited is what a copy need not copy, because an earlier one did.
type Inherited struct {
	Transferred, Skipped int64 // bytes, as the earlier copy counted them; where it can't be told, in proportion
}

// Inherit begins the checkpoint of a copy with what an earlier copy of the same disk to the same target made durable:
// all that its checkpoint names but the ranges of changed, which have other bytes on the source since. The caller
// vouches that no other writer has written to the target since, and that changed is complete.
//
// t is the task of the new copy, of which only Checkpoint, Identity, Capacity, Only, Incremental and Allocated are
// used; the checkpoint is durable when Inherit returns. Nothing may have been copied for t yet. The earlier checkpoint
// stays as it is. What is on the target beside the inherited ranges is not known, so t must not say that it is zero
// unless the caller has looked.
//
// If nothing can be taken over, there is no checkpoint of t afterwards. That is no error if nothing is left of what the
// earlier copy made durable. Errors: NotFound if it left no checkpoint, Corrupt if that is damaged, Conflict if it
// belongs to another copy, Invalid for ranges beyond the disk, and those of writing a file.
func Inherit(t Task, earlier, identity string, changed job.Extents) (Inherited, error) {
	const op = "go on from an earlier copy"
	if t.Checkpoint == "" || t.Identity == "" || t.Capacity <= 0 || earlier == "" || earlier == t.Checkpoint {
		return Inherited{}, job.Errorf(op, job.Invalid, "", "both checkpoints, identity and capacity must be given")
	}
	var kept Inherited
	next, err := inherit(t, earlier, identity, changed)
	if err == nil && len(next.done) > 0 {
		kept = Inherited{next.transferred, next.skipped}
		err = next.save(t.Checkpoint)
	}
	if kept == (Inherited{}) || err != nil {
		if rerr := RemoveCheckpoint(t.Checkpoint); err == nil {
			err = rerr
		}
		return Inherited{}, fail(op, err)
	}
	return kept, nil
}

// inherit is the checkpoint that a copy begins with.
func inherit(t Task, earlier, identity string, changed job.Extents) (next checkpoint, err error) {
	b, err := readSmall(earlier)
	if err != nil {
		return next, err
	}
	found, err := decode(b)
	if err != nil {
		return next, err
	}
	if err := found.fits(checkpoint{identity: identity, plan: found.plan, capacity: t.Capacity}); err != nil {
		return next, err
	}
	for _, x := range []job.Extents{changed, t.Only, t.Allocated} {
		if err := x.Check(t.Capacity); err != nil {
			return next, err
		}
	}
	done := found.done.Cut(changed.Align(inheritUnit, t.Capacity))
	if t.restricted() {
		done = done.Within(t.Only.Merge(0))
	}
	done = wholeUnits(done, inheritUnit, t.Capacity)
	next = checkpoint{identity: t.Identity, plan: fingerprint(t), capacity: t.Capacity}
	next.done = done
	next.transferred, next.skipped = countedOf(t, found.progressSnapshot, done)
	next.sent = next.transferred
	next.digests, next.unhashed = found.without(found.done.Cut(done))
	return next, nil
}

// wholeUnits are the units that lie in x as a whole; the last one may end with the disk.
func wholeUnits(x job.Extents, unit, capacity int64) job.Extents {
	out := make(job.Extents, 0, len(x))
	for _, e := range x.Merge(0) {
		from, to := (e.Offset+unit-1)/unit*unit, e.End()/unit*unit
		if e.End() == capacity {
			to = capacity
		}
		if from < to {
			out = append(out, job.Extent{Offset: from, Length: to - from})
		}
	}
	return out
}

// countedOf is how many bytes of done count in the round of t, in the proportion in which the earlier copy transferred
// and skipped.
func countedOf(t Task, earlier progressSnapshot, done job.Extents) (transferred, skipped int64) {
	counted := done
	if !t.restricted() && t.Allocated != nil {
		counted = done.Within(t.Allocated.Align(zeroUnit, t.Capacity))
	}
	n := counted.Sum()
	all := earlier.bytes()
	if all == 0 {
		return 0, n
	}
	transferred = min(n, int64(float64(n)*(float64(earlier.transferred)/float64(all))))
	return transferred, n - transferred
}

// without are the digests without the cells from which ranges are taken away, and what is still done of those cells:
// their sums are not known.
func (c checkpoint) without(gone job.Extents) (*Digests, job.Extents) {
	if c.digests == nil {
		return nil, nil
	}
	d := c.digests.clone()
	cells := append(append(job.Extents{}, gone...), c.unhashed...).Merge(0).Align(d.cell, c.capacity)
	for _, e := range cells {
		for i := e.Offset / d.cell; i < int64(len(d.cells)) && i*d.cell < e.End(); i++ {
			d.cells[i] = sum{}
		}
	}
	return d, c.done.Cut(gone).Within(cells)
}
