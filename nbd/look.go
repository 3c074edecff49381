package nbd

import (
	"context"

	"github.com/vmferry/vmferry/job"
)

// Read lets f read parts of an export, at most 1 MiB at a time, over a connection of its own. What read returns is
// valid until its next call. Errors are as those of Copy; what f returns is returned. Local targets have no use for it.
func (t *Target) Read(ctx context.Context, f func(read func(off, n int64) ([]byte, error)) error) (err error) {
	op := "read target " + t.name
	if t.kind != NBD {
		return job.Errorf(op, job.Invalid, "", "it is no export")
	}
	d, err := t.device(ctx, dialing{deadline: defaultDeadline}, false)
	if err != nil {
		return ended(ctx, op, err)
	}
	mem, err := newArena(largestPeek)
	if err != nil {
		return firstOf(err, <-d.close())
	}
	err = f(func(off, n int64) ([]byte, error) { return d.peek(ctx, mem.mem, off, min(n, largestPeek)) })
	lost := isLost(err) || ctx.Err() != nil // then a request may still write to the memory, so it is not freed
	err = firstOf(err, <-d.close())
	if !lost {
		err = firstOf(err, mem.free())
	}
	return ended(ctx, op, err)
}

const largestPeek = 1 << 20

// peek reads n bytes at off into mem. Requests are whole blocks of the device.
func (d *device) peek(ctx context.Context, mem []byte, off, n int64) ([]byte, error) {
	step := max(d.minBlock, min(d.maxRequest, largestPeek)/d.minBlock*d.minBlock)
	var got int64
	for got < n {
		at := off + got
		begin := at / d.minBlock * d.minBlock
		size := min(step, (off+n-begin+d.minBlock-1)/d.minBlock*d.minBlock, d.size-begin, int64(len(mem))-got)
		if begin != at || size <= 0 {
			break // the rest of a block is not worth a request
		}
		r := &request{op: opRead, off: begin, n: size, buf: mem[got : got+size]}
		if err := await(ctx, d.conns[0], r, defaultDeadline, nil); err != nil {
			return nil, err
		}
		got += size
	}
	return mem[:min(got, n)], nil
}

// Places are parts of a disk of size bytes by which another disk shows without reading all of it: the first and the
// last MiB, where tables of partitions, labels and file systems are, and 64 KiB at 16 places between them.
func Places(size int64) job.Extents {
	const ends, count, length = 1 << 20, 16, 64 << 10
	if size <= 2*ends+count*length {
		return job.Whole(size)
	}
	out := job.Extents{{Offset: 0, Length: ends}}
	last := (size - ends) &^ (length - 1)
	step := max(length, (last-ends)/count&^(length-1))
	for off := int64(ends); off+length <= last && len(out) <= count; off += step {
		out = append(out, job.Extent{Offset: off, Length: length})
	}
	return append(out, job.Extent{Offset: last, Length: size - last})
}
