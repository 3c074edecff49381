package nbd

import (
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// arena is page-aligned memory outside the Go heap: libnbd keeps pointers into it between calls, which it must not into
// Go's own memory. Parts of it belong to whoever got them from take until the arena is freed. What nobody has written
// to yet costs nothing.
type arena struct{ mem, rest []byte }

func newArena(size int64) (*arena, error) {
	mem, err := mapMemory(size)
	if err != nil {
		return nil, err
	}
	// Huge pages would take up four times the memory that is used. The kernel may know nothing of them: then all is
	// well.
	_ = unix.Madvise(mem, unix.MADV_NOHUGEPAGE)
	return &arena{mem: mem, rest: mem}, nil
}

// newHugeArena is for memory of which all is used: in huge pages, if the kernel has some.
func newHugeArena(size int64) (*arena, error) {
	mem, err := mapMemory(size + hugePage)
	if err != nil {
		return nil, err
	}
	rest := mem[-uintptr(unsafe.Pointer(unsafe.SliceData(mem)))%hugePage:][:size] //nolint:gosec // of which only the address is used
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

// free gives the memory back. Nothing may be in flight on any part of it.
func (a *arena) free() error {
	if err := unix.Munmap(a.mem); err != nil {
		return fmt.Errorf("free buffers: %w", err)
	}
	return nil
}

// buffers are the memory of one thread. The first ones are always lent first: they are in the caches, and as long as
// few are needed, the others are never touched.
type buffers struct {
	all     [][]byte
	free    []bool  // by place in all
	touched []int64 // likewise: bytes that were ever used, so that they are in memory
	inUse   int64   // the sum of that; never more than most
	per     int     // parts of one that hold a request each
	lent    int64   // bytes of requests
	limit   int64   // of lent; grows to most when that helps
	most    int64
	size    int64 // bytes of one
	extra   []*arena
	starved bool // somebody had to wait since the last time that it was looked at
	adapted time.Time
}

// newBuffers makes some that still need memory, of at most each bytes in per parts; at first no more than limit bytes
// are lent.
func newBuffers(each int64, per int, most, limit int64) buffers {
	return buffers{size: each, per: per, most: most, limit: min(most, limit)}
}

// add is for count more of each bytes.
func (b *buffers) add(mem *arena, count, each int64) {
	for range count {
		b.all, b.free, b.touched = append(b.all, mem.take(each)), append(b.free, true), append(b.touched, 0)
	}
}

// addHuge is for as many more of each bytes as there are in size bytes of huge pages.
func (b *buffers) addHuge(size, each int64) error {
	mem, err := newHugeArena(size)
	if err != nil {
		return err
	}
	b.extra = append(b.extra, mem)
	b.add(mem, size/each, each)
	return nil
}

// take lends memory for a request of n bytes, and says which; -1 if too much is lent already. If nothing is lent, there
// always is one.
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

// more lends one for n bytes that was not foreseen; -1 if the machine has no memory.
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

// best is the first free one that can be used without taking up more memory than there may be; -1 if there is none.
func (b *buffers) best(n int64) int {
	for i, free := range b.free {
		if free && int64(len(b.all[i])) >= n && (b.inUse+max(0, n-b.touched[i]) <= b.most || b.lent == 0) {
			return i
		}
	}
	return -1
}

func (b *buffers) give(i int, n int64) {
	b.lent -= n * int64(b.per)
	b.free[i] = true
}

// adapt lends more from now on if memory was missing for requests that take long: they are far away, or slow.
func (b *buffers) adapt(usual time.Duration, now time.Time) {
	if !b.starved || usual < nearServer || now.Sub(b.adapted) < usual {
		return
	}
	b.limit, b.adapted = min(b.most, 2*b.limit), now
}
