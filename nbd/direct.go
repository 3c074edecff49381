package nbd

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// direct writes to a block device past the page cache (docs/adr/0014). What can't go that way, because it begins or
// ends within a sector, goes through the cache, and nothing else is written meanwhile: the kernel reads the rest of
// such a page first, and would later put it back over what somebody else has written there.
//
// Its methods may be called from many goroutines, each range by one at a time.
type direct struct {
	file   *os.File // for these writes only
	fd     int      // its number
	sector int64    // bytes; what goes past the cache is a multiple of it, in place and length
	cached localFile

	cache sync.RWMutex // held alone by who writes through the cache
}

// newDirect is for an open block device; nil if it has no such way.
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

// write writes all of b at off.
func (d *direct) write(b []byte, off int64) error {
	done, err := d.writePastCache(b, off)
	if err != nil || done == len(b) {
		return err
	}
	return d.writeThroughCache(b[done:], off+int64(done))
}

// writePastCache writes what can go writePastCache the cache, and says how much of b that was.
func (d *direct) writePastCache(b []byte, off int64) (done int, err error) {
	n := len(b) - len(b)%int(d.sector)
	if n == 0 || off%d.sector != 0 {
		return 0, nil
	}
	err = d.excludeCached(func() error { return writeFull(d.fd, b[:n], off) })
	if errors.Is(err, unix.EINVAL) {
		return 0, nil // it asks for more than whole sectors
	}
	return n, err
}

// excludeCached does what must not happen while somebody writes through the cache.
func (d *direct) excludeCached(do func() error) error {
	d.cache.RLock()
	defer d.cache.RUnlock()
	return do()
}

// writeThroughCache writes writeThroughCache the cache, and waits until nothing in it has yet to be written.
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
