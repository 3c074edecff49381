package nbd

import (
	"context"

	"github.com/vmferry/vmferry/job"
)

// recheck looks whether what an earlier attempt copied is what it was: on the target, which may have lost it or be
// another one, and at the source if that is an export of which nothing else tells whether it is the same disk. It reads
// only a few cells: any disk is found out that is another one, but not each change of one.
func (c *copier) recheck(ctx context.Context) error {
	if len(c.doubt) == 0 {
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
	want := c.keeper.saved.digests
	for len(c.doubt) > 0 {
		cell := c.doubt[0]
		if c.unsure {
			found, err := c.sumOf(ctx, c.engine.src, cell, mem)
			switch {
			case isLost(err) || ctx.Err() != nil:
				return err
			case err != nil:
				c.task.Log.Warn("the source can't be compared with what was read before", "err", err) // the copy itself deals with it
			case found != want.cells[cell]:
				return c.refuse(job.Errorf("compare with what was copied before", job.Conflict, "", "the source is another disk than before, or was changed: at %s", want.extent(cell)))
			}
		}
		if c.engine.dst.kind != Null {
			found, err := c.sumOf(ctx, c.engine.dst, cell, mem)
			switch {
			case isLost(err) || ctx.Err() != nil:
				return err
			case err != nil:
				c.task.Log.Warn("the target can't be compared with what was written before", "err", err)
			case found != want.cells[cell]:
				return c.refuse(job.Errorf("compare with what was copied before", job.Corrupt, "", "the target does not hold what was written to it: at %s", want.extent(cell)))
			}
		}
		c.doubt = c.doubt[1:]
	}
	return nil
}

func (c *copier) refuse(why error) error { return reject(c.task.Checkpoint, why) }

// sumOf reads one cell of a device.
func (c *copier) sumOf(ctx context.Context, d *device, cell int, mem []byte) (sum, error) {
	e := c.keeper.saved.digests.extent(cell)
	found := newDigests(c.capacity)
	step := max(d.minBlock, min(d.maxRequest, defaultRequestSize)/d.minBlock*d.minBlock)
	for off := e.Offset; off < e.End(); off += step {
		n := min(step, e.End()-off)
		whole := min((n+d.minBlock-1)/d.minBlock*d.minBlock, d.size-off)
		r := &request{op: opRead, off: off, n: whole, buf: mem[:whole]}
		if err := await(ctx, d.conns[0], r, c.task.Deadline); err != nil {
			return sum{}, err
		}
		found.add(found.of(off, r.buf[:n]))
	}
	return found.cells[cell], nil
}
