package nbd

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/vmferry/vmferry/job"
)

// look is a part of what an earlier attempt copied, to be read again.
type look struct {
	ranges job.Extents
	sum    sum // of the bytes that they held
}

// looks chooses what to read again of an earlier attempt: a few cells with data, and a little of a few cells of zeros.
// unit is that of requests, in bytes, and at least a unit of the digests.
func looks(s progressSnapshot, unit int64) []look {
	var out []look
	if s.digests != nil {
		s.done = s.done.Cut(s.unhashed.Align(s.digests.cell, s.digests.capacity))
	}
	data, zeros := s.digests.sampleCells(s.done)
	for _, cell := range data {
		out = append(out, look{s.done.Within(job.Extents{s.digests.extent(cell)}), s.digests.cells[cell]})
	}
	for _, cell := range zeros {
		within := s.done.Within(job.Extents{s.digests.extent(cell)})
		part := within[rand.IntN(len(within))] //nolint:gosec // the places are no secret
		if units := (part.Length - recheckZeroBytes) / unit; units > 0 {
			part.Offset += unit * rand.Int64N(units+1) //nolint:gosec // likewise
			part.Length = recheckZeroBytes
		}
		out = append(out, look{ranges: job.Extents{part}})
	}
	return out
}

// recheck reads a few cells again that an earlier attempt copied. The target may have lost them, or be another disk.
// The source is checked too if it is an export without an identity, which may be another disk now. A few cells show
// that a disk is another one, but not each change of a disk.
func (c *copier) recheck(ctx context.Context) error {
	if len(c.unverified) == 0 {
		return nil
	}
	mem, err := newArena(largestRequestSize)
	if err != nil {
		return err
	}
	err = c.recheckAll(ctx, mem.mem)
	if isLost(err) || ctx.Err() != nil {
		return firstOf(err, context.Cause(ctx)) // a request may still write to the memory, so it is not freed
	}
	return firstOf(err, mem.free())
}

func (c *copier) recheckAll(ctx context.Context, mem []byte) error {
	for len(c.unverified) > 0 {
		look := c.unverified[0]
		if from := c.atSource(look); len(from.ranges) > 0 {
			same, err := c.unchanged(ctx, source, c.engine.src, from, mem)
			if err != nil {
				return err
			}
			if !same {
				return c.refuse(look, job.Conflict, "the source is not the same disk as before, or was changed")
			}
		}
		if c.engine.dst.kind != Null {
			same, err := c.unchanged(ctx, target, c.engine.dst, look, mem)
			if err != nil {
				return err
			}
			if !same {
				return c.refuse(look, job.Corrupt, "the target does not hold what was written to it")
			}
		}
		c.unverified = c.unverified[1:]
	}
	return nil
}

// atSource is what to look at on the source: nothing if that must be the same disk. What is not allocated was never
// read, and adds nothing to a sum.
func (c *copier) atSource(l look) look {
	switch {
	case !c.sourceUnverified:
		return look{}
	case c.task.Allocated != nil:
		return look{l.ranges.Within(c.allocated()), l.sum}
	default:
		return l
	}
}

// unchanged says whether one side holds what it held. What can't be read counts as unchanged: the copy itself handles
// the error. An error of unchanged ends the pass.
func (c *copier) unchanged(ctx context.Context, side string, d *device, l look, mem []byte) (bool, error) {
	began := time.Now()
	found, err := c.sumOf(ctx, d, l.ranges, mem)
	switch {
	case isLost(err) || err != nil && ctx.Err() != nil:
		return false, &sideError{side, began, err}
	case err != nil:
		c.task.Log.Warn("what was copied before can't be compared", "side", side, "err", err)
		return true, nil
	}
	return found == l.sum, nil
}

// refuse moves the checkpoint aside and returns the error that ends the copy.
func (c *copier) refuse(l look, kind job.Kind, why string) error {
	err := job.Errorf("compare with what was copied before", kind, "", "%s: at %s", why, listed(l.ranges))
	return reject(c.task.Checkpoint, err)
}

// sumOf reads ranges of a device, in whole units of the digests, and returns their sum.
func (c *copier) sumOf(ctx context.Context, d *device, ranges job.Extents, mem []byte) (sum, error) {
	digests := c.checkpointer.saved.digests
	unit := max(zeroUnit, d.minBlock)
	if d.maxRequest < unit {
		return sum{}, job.Errorf("read a cell", job.Invalid, "", "requests of %d bytes are too small for a digest",
			d.maxRequest)
	}
	step := max(1, min(d.maxRequest, defaultRequestSize)/unit) * unit
	quiet := &c.meter.targetQuiet
	if d == c.engine.src {
		quiet = &c.meter.sourceQuiet
	}
	var found sum
	for _, e := range ranges {
		for off := e.Offset; off < e.End(); {
			n := min(step-off%unit, e.End()-off)
			whole := min((n+d.minBlock-1)/d.minBlock*d.minBlock, d.size-off)
			r := &request{op: opRead, off: off, n: whole, buf: mem[:whole]}
			if err := await(ctx, d.conns[0], r, c.task.Deadline, quiet); err != nil {
				return sum{}, err
			}
			for _, s := range digests.sums(off, r.buf[:n]) {
				found.plus(s.sum)
			}
			off += n
		}
	}
	return found, nil
}
