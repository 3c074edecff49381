package nbd

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// behind makes the kernel write to the disk what a target file has taken, all the time and not only when it is flushed,
// and then forget it: the disk is busy from the first write on, a flush finds little left to do, and the page cache
// keeps what others need. The pages go round, so the kernel has them at hand (docs/adr/0014). All of it are hints:
// whether the bytes are on the disk is what the flush says.
//
// Its methods may be called from many goroutines; they do nothing on nil.
type writeback struct {
	// file is a descriptor of its own of the same file. Who waits for the disk hears of its errors, and the kernel
	// tells each open file once: on this one it is not missed, for the flush of the other one hears of them as well.
	file *os.File
	fd   int // its number

	mu    sync.Mutex
	begun job.Extents // written by us, given to the disk, not yet waited for; in the order of time
	bytes int64       // the sum of that
}

// newWriteback is for an open file; nil if it can't be had.
func newWriteback(fd int) *writeback {
	f, err := openAgain(fd, os.O_RDONLY)
	if err != nil {
		return nil
	}
	return &writeback{file: f, fd: int(f.Fd())}
}

// openAgain opens the very same file once more, whatever its name stands for now, and whoever else is kept from it.
func openAgain(fd, flags int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

// wrote takes that a range was written. It waits for the disk while too much is on its way there.
func (w *writeback) wrote(off, n int64) {
	if w == nil {
		return
	}
	_ = unix.SyncFileRange(w.fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
	for _, e := range w.overdue(job.Extent{Offset: off, Length: n}) {
		_ = unix.SyncFileRange(w.fd, e.Offset, e.Length, writeAndWait)
		_ = unix.Fadvise(w.fd, e.Offset, e.Length, unix.FADV_DONTNEED)
	}
}

const writeAndWait = unix.SYNC_FILE_RANGE_WAIT_BEFORE | unix.SYNC_FILE_RANGE_WRITE | unix.SYNC_FILE_RANGE_WAIT_AFTER

// waitForDisk is no hint: it returns when the cache has nothing of the range that the disk has not taken. Its error is that
// of a flush, which one on the other descriptor tells as well.
func (w *writeback) waitForDisk(off, n int64) error {
	if err := unix.SyncFileRange(w.fd, off, n, writeAndWait); err != nil {
		return unix.Fdatasync(w.fd)
	}
	return nil
}

// overdue adds a range to those on their way, and takes off the oldest ones that are too many.
func (w *writeback) overdue(e job.Extent) (oldest job.Extents) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.begun, w.bytes = append(w.begun, e), w.bytes+e.Length
	n := 0
	for ; w.bytes > writebackMost; n++ {
		w.bytes -= w.begun[n].Length
	}
	oldest = w.begun[:n:n]
	w.begun = w.begun[n:]
	return oldest
}

func (w *writeback) close() error {
	if w == nil {
		return nil
	}
	return w.file.Close()
}
