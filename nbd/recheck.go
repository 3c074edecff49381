package nbd

import (
	"context"

	"github.com/vmferry/vmferry/job"
)

// recheck looks whether what an earlier attempt copied is what it was: on the target, which may have lost it or be
// another one, and at the source if that is an export of which nothing else tells whether it is the same disk. It reads
// only a few cells: any disk is found out that is another one, but not each change of one.
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
		return firstOf(err, context.Cause(ctx)) // something may still write to the memory, so it stays
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
				return c.refuse(cell, job.Conflict, "the source is another disk than before, or was changed")
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

// unchanged says whether a cell of one side holds what it held. What can't be read counts as such: the copy itself deals
// with it. The error is one that ends the pass.
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

func (c *copier) refuse(cell int, kind job.Kind, why string) error {
	err := job.Errorf("compare with what was copied before", kind, "", "%s: at %s", why,
		c.checkpointer.saved.digests.extent(cell))
	return reject(c.task.Checkpoint, err)
}

// sumOf reads of one cell of a device what was copied, in whole units of what is hashed.
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
