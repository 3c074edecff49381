package nbd

import (
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// writeback makes the kernel write a target file's new pages to the disk all the time, not only at a flush, and then
// drop them from the page cache (ADR 14). So the disk is busy from the first write on, a flush finds little left to do,
// and the cache keeps the data of other programs. The kernel uses the same pages again and again. All these calls are
// hints: only a flush says whether the bytes are on the disk.
//
// Its methods may be called from many goroutines. wrote and close do nothing on nil.
type writeback struct {
	// file is the same file, opened once more. A wait for the disk returns its errors, and the kernel reports an error
	// once to each open file. An error that is reported here is not lost: the flush of the other open file returns it
	// too.
	file *os.File
	fd   int // of file

	mu    sync.Mutex
	begun job.Extents // given to the disk and not waited for yet, oldest first
	bytes int64       // the sum of begun
}

// newWriteback is for an open file. It returns nil if the file cannot be opened once more.
func newWriteback(fd int) *writeback {
	f, err := openAgain(fd, os.O_RDONLY)
	if err != nil {
		return nil
	}
	return &writeback{file: f, fd: int(f.Fd())}
}

// openAgain opens the same file once more, even if its name means another file now or its lock keeps other programs
// out.
func openAgain(fd, flags int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

// wrote gives a range that was written to the disk. It waits for the disk while more than writebackMost is on the way.
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

// waitForDisk returns when the disk has all bytes of the range. It is not a hint. Its error is that of a flush, which a
// flush of the other open file returns too.
func (w *writeback) waitForDisk(off, n int64) error {
	if err := unix.SyncFileRange(w.fd, off, n, writeAndWait); err != nil {
		return unix.Fdatasync(w.fd)
	}
	return nil
}

// overdue adds a range to begun. It removes and returns the oldest ranges, so that at most writebackMost bytes are
// left.
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
