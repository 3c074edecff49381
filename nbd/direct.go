package nbd

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// direct writes to a block device past the page cache (ADR 14). Bytes of a write that begin or end within a sector go
// through the cache, and no other write runs meanwhile: the kernel first reads the rest of the page, and would later
// write that back over another write to the same page.
//
// Its methods may be called from many goroutines, each range by one at a time.
type direct struct {
	file   *os.File // for writes past the cache only
	fd     int      // of file
	sector int64    // bytes; offsets and lengths past the cache are multiples of it
	cached localFile

	cache sync.RWMutex // held alone for a write through the cache
}

// newDirect opens an open block device for writes past the cache. It returns nil if the device does not support them.
func newDirect(cached localFile) *direct {
	sector, err := unix.IoctlGetInt(cached.fd, unix.BLKSSZGET)
	if err != nil || sector <= 0 {
		return nil
	}
	f, err := openAgain(cached.fd, os.O_WRONLY|unix.O_DIRECT)
	if err != nil {
		return nil
	}
	return &direct{file: f, fd: int(f.Fd()), sector: int64(sector), cached: cached}
}

// write writes all of b at off: as much as possible past the cache, the rest through it.
func (d *direct) write(b []byte, off int64) error {
	done, err := d.writePastCache(b, off)
	if err != nil || done == len(b) {
		return err
	}
	return d.writeThroughCache(b[done:], off+int64(done))
}

// writePastCache writes the whole sectors of b past the cache and returns how many bytes those are. It writes nothing
// if off lies within a sector.
func (d *direct) writePastCache(b []byte, off int64) (done int, err error) {
	n := len(b) - len(b)%int(d.sector)
	if n == 0 || off%d.sector != 0 {
		return 0, nil
	}
	err = d.excludeCached(func() error { return writeFull(d.fd, b[:n], off) })
	if errors.Is(err, unix.EINVAL) {
		return 0, nil // the device wants more than whole sectors
	}
	return n, err
}

// excludeCached calls do while no write goes through the cache.
func (d *direct) excludeCached(do func() error) error {
	d.cache.RLock()
	defer d.cache.RUnlock()
	return do()
}

// writeThroughCache writes through the cache, and waits until the disk has the bytes.
func (d *direct) writeThroughCache(b []byte, off int64) error {
	d.cache.Lock()
	defer d.cache.Unlock()
	if err := writeFull(d.cached.fd, b, off); err != nil {
		return err
	}
	return d.cached.writeback.waitForDisk(off, int64(len(b)))
}

func (d *direct) close() error {
	if d == nil {
		return nil
	}
	return d.file.Close()
}
