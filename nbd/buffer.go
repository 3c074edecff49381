package nbd

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arena is page-aligned memory outside the Go heap: libnbd keeps pointers into it between calls, which it may not do
// with Go's own memory. A part belongs to the caller of take until the arena is freed. Pages that were never written to
// cost no memory.
type arena struct{ mem, rest []byte }

func newArena(size int64) (*arena, error) {
	mem, err := mapMemory(size)
	if err != nil {
		return nil, err
	}
	// Huge pages would take four times the memory that is used. A kernel without huge pages returns an error, which is
	// fine.
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	return &arena{mem: mem, rest: mem}, nil
}

// newHugeArena is for memory that is used as a whole. It is in huge pages if the kernel has some.
func newHugeArena(size int64) (*arena, error) {
	mem, err := mapMemory(size + hugePage)
	if err != nil {
		return nil, err
	}
	address := uintptr(unsafe.Pointer(unsafe.SliceData(mem))) //nolint:gosec // only the address is used
	rest := mem[-address%hugePage:][:size]
	_ = unix.Madvise(rest, unix.MADV_HUGEPAGE)
	return &arena{mem: mem, rest: rest}, nil
}

func mapMemory(size int64) ([]byte, error) {
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("allocate %d bytes of buffers: %w", size, err)
	}
	return mem, nil
}

func (a *arena) take(n int64) []byte {
	b := a.rest[:n:n]
	a.rest = a.rest[n:]
	return b
}

// free returns the memory to the kernel. No request in flight may use a part of it.
func (a *arena) free() error {
	if err := unix.Munmap(a.mem); err != nil {
		return fmt.Errorf("free buffers: %w", err)
	}
	return nil
}

// buffers are the memory of one thread. The lowest free buffer is lent first: it is in the processor's caches, and
// while few are needed, the others are never touched. Only the thread uses them.
type buffers struct {
	all     [][]byte
	free    []bool    // by index in all
	touched []int64   // by index in all: bytes that were used once, so they take memory
	inUse   int64     // the sum of touched; at most most, unless nothing else is lent or more() added a buffer
	per     int       // requests that share one buffer: 2 when both sides are compared, else 1
	lent    int64     // bytes of requests
	limit   int64     // of lent; adapt doubles it up to most
	most    int64     // bytes
	size    int64     // bytes of one buffer that more adds
	extra   []*arena  // memory that belongs to these buffers alone
	starved bool      // a request had to wait for memory since fill began
	adapted time.Time // last change of limit
}

// newBuffers makes buffers without memory, which add brings. Each has at most each bytes, in per parts. At first at
// most limit bytes are lent.
func newBuffers(each int64, per int, most, limit int64) buffers {
	return buffers{size: each, per: per, most: most, limit: min(most, limit)}
}

// add adds count buffers of each bytes.
func (b *buffers) add(mem *arena, count, each int64) {
	for range count {
		b.all, b.free, b.touched = append(b.all, mem.take(each)), append(b.free, true), append(b.touched, 0)
	}
}

// addHuge adds size bytes of huge pages, as buffers of each bytes.
func (b *buffers) addHuge(size, each int64) error {
	mem, err := newHugeArena(size)
	if err != nil {
		return err
	}
	b.extra = append(b.extra, mem)
	b.add(mem, size/each, each)
	return nil
}

// take lends a buffer for a request of n bytes and returns its index; -1 if too much is lent already. If nothing is
// lent, it always lends one.
func (b *buffers) take(n int64) int {
	n *= int64(b.per)
	i := b.best(n)
	if i < 0 || b.lent > 0 && b.lent+n > b.limit {
		b.starved = true
		return -1
	}
	b.inUse += max(0, n-b.touched[i])
	b.touched[i] = max(n, b.touched[i])
	b.free[i] = false
	b.lent += n
	return i
}

// more lends an extra buffer for n bytes beyond the limits, and returns its index; -1 if the machine has no memory.
func (b *buffers) more(n int64) int {
	mem, err := newArena(b.size)
	if err != nil {
		return -1
	}
	b.extra = append(b.extra, mem)
	b.all, b.free, b.touched = append(b.all, mem.mem), append(b.free, false), append(b.touched, b.size)
	b.inUse += b.size
	b.lent += n * int64(b.per)
	return len(b.all) - 1
}

// best is the first free buffer that can be used within most bytes of memory; -1 if there is none.
func (b *buffers) best(n int64) int {
	for i, free := range b.free {
		if free && int64(len(b.all[i])) >= n && (b.inUse+max(0, n-b.touched[i]) <= b.most || b.lent == 0) {
			return i
		}
	}
	return -1
}

// give takes back the buffer at index i, lent for n bytes.
func (b *buffers) give(i int, n int64) {
	b.lent -= n * int64(b.per)
	b.free[i] = true
}

// adapt raises the limit if memory was missing and requests usually take longer than nearServer: the server is far or
// slow.
func (b *buffers) adapt(usual time.Duration, now time.Time) {
	if !b.starved || usual < nearServer || now.Sub(b.adapted) < usual {
		return
	}
	b.limit, b.adapted = min(b.most, 2*b.limit), now
}
