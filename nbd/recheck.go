package nbd

import (
	"context"

	"github.com/vmferry/vmferry/job"
)

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
		cell := c.unverified[0]
		if c.sourceUnverified {
			same, err := c.unchanged(ctx, source, c.engine.src, cell, mem)
			if err != nil {
				return err
			}
			if !same {
				return c.refuse(cell, job.Conflict, "the source is not the same disk as before, or was changed")
			}
		}
		if c.engine.dst.kind != Null {
			same, err := c.unchanged(ctx, target, c.engine.dst, cell, mem)
			if err != nil {
				return err
			}
			if !same {
				return c.refuse(cell, job.Corrupt, "the target does not hold what was written to it")
			}
		}
		c.unverified = c.unverified[1:]
	}
	return nil
}

// unchanged says whether a cell of one side holds what it held. A cell that can't be read counts as unchanged: the copy
// itself handles the error. An error of unchanged ends the pass.
func (c *copier) unchanged(ctx context.Context, side string, d *device, cell int, mem []byte) (bool, error) {
	found, err := c.sumOf(ctx, d, cell, mem)
	switch {
	case isLost(err) || err != nil && ctx.Err() != nil:
		return false, err
	case err != nil:
		c.task.Log.Warn("what was copied before can't be compared", "side", side, "err", err)
		return true, nil
	}
	return found == c.checkpointer.saved.digests.cells[cell], nil
}

// refuse moves the checkpoint aside and returns the error that ends the copy.
func (c *copier) refuse(cell int, kind job.Kind, why string) error {
	err := job.Errorf("compare with what was copied before", kind, "", "%s: at %s", why,
		c.checkpointer.saved.digests.extent(cell))
	return reject(c.task.Checkpoint, err)
}

// sumOf reads the copied ranges of one cell of a device, in whole units of the digests, and returns their sum.
func (c *copier) sumOf(ctx context.Context, d *device, cell int, mem []byte) (sum, error) {
	digests := c.checkpointer.saved.digests
	unit := max(zeroUnit, d.minBlock)
	if d.maxRequest < unit {
		return sum{}, job.Errorf("read a cell", job.Invalid, "", "requests of %d bytes are too small for a digest",
			d.maxRequest)
	}
	step := max(1, min(d.maxRequest, defaultRequestSize)/unit) * unit
	var found sum
	for _, e := range c.checkpointer.saved.done.Within(job.Extents{digests.extent(cell)}) {
		for off := e.Offset; off < e.End(); {
			n := min(step-off%unit, e.End()-off)
			whole := min((n+d.minBlock-1)/d.minBlock*d.minBlock, d.size-off)
			r := &request{op: opRead, off: off, n: whole, buf: mem[:whole]}
			if err := await(ctx, d.conns[0], r, c.task.Deadline); err != nil {
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
