package nbd

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// fileConn serves the requests of one thread on a local file or block device. A few worker goroutines block in system
// calls.
type fileConn struct {
	file    localFile // shared with other threads; the device closes it
	kind    Kind
	workers sync.WaitGroup
	wake    *wake

	mu       sync.Mutex
	more     *sync.Cond // on mu: todo has a request, or closed is set
	todo     queue[*request]
	finished queue[*request]
	closed   bool
}

// localFile is an open file or block device that the threads share.
type localFile struct {
	fd        int
	writeback *writeback // nil for a source
	direct    *direct    // only for a block device as target; else nil
	ext4      bool       // the file lies on an ext4 file system
}

func onExt4(fd int) bool {
	var fs unix.Statfs_t
	return unix.Fstatfs(fd, &fs) == nil && fs.Type == unix.EXT4_SUPER_MAGIC
}

// workers is how many requests of one thread run at once.
func (f localFile) workers() int {
	if f.direct != nil {
		return directWorkers // each write waits for the disk, which can be far away
	}
	return fileWorkers
}

func newFileConn(file localFile, kind Kind) (*fileConn, error) {
	w, err := newWake()
	if err != nil {
		return nil, err
	}
	c := &fileConn{file: file, kind: kind, wake: w}
	c.more = sync.NewCond(&c.mu)
	for range file.workers() {
		c.workers.Go(c.work)
	}
	return c, nil
}

func (c *fileConn) work() {
	for {
		c.mu.Lock()
		for c.todo.len() == 0 && !c.closed {
			c.more.Wait()
		}
		if c.closed {
			c.mu.Unlock()
			return
		}
		r := c.todo.pop()
		c.mu.Unlock()

		if err := c.do(r); err != nil {
			r.err = &requestError{r.op, r.off, r.n, err}
		}

		c.mu.Lock()
		c.finished.push(r)
		first := c.finished.len() == 1
		c.mu.Unlock()
		if first {
			c.wake.set()
		}
	}
}

func (c *fileConn) do(r *request) error {
	switch r.op {
	case opRead:
		return readFull(c.file.fd, r.buf, r.off)
	case opWrite:
		return c.file.write(r.buf, r.off)
	case opZero:
		return c.zero(r.off, r.n, r.fast)
	case opFlush:
		return unix.Fdatasync(c.file.fd)
	case opStatus:
		return c.status(r)
	}
	return syscall.ENOTSUP
}

func readFull(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, off)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("%w: the file became shorter: %w", io.ErrUnexpectedEOF, unix.EIO)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

func (f localFile) write(b []byte, off int64) error {
	if f.direct != nil {
		return f.direct.write(b, off)
	}
	if f.ext4 {
		f.chooseBlocks(off, int64(len(b)))
	}
	if err := writeFull(f.fd, b, off); err != nil {
		return err
	}
	f.writeback.wrote(off, int64(len(b)))
	return nil
}

// chooseBlocks makes ext4 choose all blocks of a range just before the range is written; else ext4 would reserve them
// page by page (ADR 14). If there is no room, the write reports that.
func (f localFile) chooseBlocks(off, n int64) { _ = f.allocate(unix.FALLOC_FL_KEEP_SIZE, off, n) }

func (f localFile) allocate(mode uint32, off, n int64) error {
	do := func() error { return unix.Fallocate(f.fd, mode, off, n) }
	if f.direct != nil {
		return f.direct.excludeCached(do)
	}
	return do()
}

func writeFull(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// zero punches a hole in a file, or zeroes a range of a block device. Where that is not supported, it writes zeros, or
// with fast returns the error.
func (c *fileConn) zero(off, n int64, fast bool) error {
	mode := uint32(unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE)
	if c.kind == Block {
		mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
	}
	err := c.file.allocate(mode, off, n)
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EINVAL):
	case errors.Is(err, unix.EINTR):
		return c.zero(off, n, fast)
	default:
		return err
	}
	if fast {
		return err
	}
	zeros := make([]byte, min(n, defaultRequestSize))
	for n > 0 {
		part := min(n, int64(len(zeros)))
		if err := c.file.write(zeros[:part], off); err != nil {
			return err
		}
		off, n = off+part, n-part
	}
	return nil
}

// status appends the data and the holes of the request's range to its ranges.
func (c *fileConn) status(r *request) error {
	end := r.off + r.n
	for at := r.off; at < end; {
		data, err := unix.Seek(c.file.fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data, err = end, nil // a hole up to the end of the file
		}
		if err != nil {
			return err
		}
		if data = min(data, end); data > at {
			r.ranges = append(r.ranges, plannedRange{off: at, n: data - at, zero: true})
			at = data
			continue
		}
		hole, err := unix.Seek(c.file.fd, at, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		hole = min(hole, end)
		r.ranges = append(r.ranges, plannedRange{off: at, n: hole - at})
		at = hole
	}
	return nil
}

func (c *fileConn) lazyBuffers() bool { return false }

func (c *fileConn) start(r *request) {
	c.mu.Lock()
	c.todo.push(r)
	c.mu.Unlock()
	c.more.Signal()
}

func (c *fileConn) want() (fd int32, events int16) { return int32(c.wake.fd), unix.POLLIN }

func (c *fileConn) ready(int16) error {
	c.wake.clear()
	return nil
}

func (c *fileConn) done() *request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.finished.pop()
}

// close drops the requests that have not begun. A system call that hangs cannot be ended: the channel stays open as
// long as the call lasts.
func (c *fileConn) close(time.Duration) <-chan struct{} {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.more.Broadcast()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.workers.Wait()
		c.wake.close()
	}()
	return ended
}

// nullConn answers every request at once, and keeps nothing.
type nullConn struct{ finished queue[*request] }

func (c *nullConn) lazyBuffers() bool              { return false }
func (c *nullConn) start(r *request)               { c.finished.push(r) }
func (c *nullConn) want() (fd int32, events int16) { return -1, 0 }
func (c *nullConn) ready(int16) error              { return nil }

func (c *nullConn) close(time.Duration) <-chan struct{} {
	ended := make(chan struct{})
	close(ended)
	return ended
}

func (c *nullConn) done() *request {
	return c.finished.pop()
}
