package nbd

import (
	"encoding/binary"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// wake interrupts a poll from another goroutine. set may be called from any goroutine, also after close.
type wake struct {
	mu sync.Mutex
	fd int // -1 once closed
}

func newWake() (*wake, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make event descriptor: %w", err)
	}
	return &wake{fd: fd}, nil
}

// set interrupts the poll. It fails only if the counter is full, and then the poll is awake already.
func (w *wake) set() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fd >= 0 {
		_, _ = unix.Write(w.fd, binary.NativeEndian.AppendUint64(nil, 1))
	}
}

func (w *wake) clear() {
	var b [8]byte
	_, _ = unix.Read(w.fd, b[:])
}

func (w *wake) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = unix.Close(w.fd)
	w.fd = -1
}
