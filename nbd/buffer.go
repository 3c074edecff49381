package nbd

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// arena is page-aligned memory outside the Go heap: libnbd keeps pointers into it between calls, which it must not into
// Go's own memory. Parts of it belong to whoever got them from take until the arena is freed.
type arena struct{ mem, rest []byte }

func newArena(size int64) (*arena, error) {
	mem, err := unix.Mmap(-1, 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("allocate %d bytes of buffers: %w", size, err)
	}
	return &arena{mem: mem, rest: mem}, nil
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
