package sim

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vmferry/vmferry/job"
)

// disk is one virtual disk with its bytes.
type disk struct {
	id       job.DiskID
	key      int32
	unit     int32  // on its controller
	label    string // "Hard disk 1"
	uuid     string // of its backing
	unfit    string // why snapshots leave it out; "" if they don't
	file     string // on the datastore: "[LocalDS_0] web/web.vmdk"
	flat     string // path on this machine, in the VM's directory
	image    string // path of the file that holds the bytes: flat, or the given image if it is used in place
	capacity atomic.Int64
	detached atomic.Bool // removed from the VM; snapshots still have it

	mu        sync.RWMutex
	base      *os.File
	layers    []*layer // the topmost is last
	numbered  int      // overlays made so far
	allocated blocks   // data of the image, and ever written
	tracking  tracking
}

// layer is the overlay above a snapshot, and what tracking knew when the snapshot was taken.
type layer struct {
	snapshot string // moref
	file     string // on the datastore
	data     *os.File
	dirty    blocks // which blocks are in data
	frozen   *frozen
}

var (
	errBeyondEnd  = errors.New("beyond the end of the disk")
	errNoSnapshot = errors.New("no such snapshot")

	errHasSnapshots = errors.New("the disk has snapshots")
	errBadSize      = errors.New("a disk grows to a larger multiple of 512")
)

func (d *disk) openBase() error {
	f, err := os.OpenFile(d.flat, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	d.base, d.allocated = f, newBlocks(d.capacity.Load())
	return eachData(f, d.capacity.Load(), func(from, to int64) error {
		d.allocated.addBytes(from, to)
		return nil
	})
}

func (d *disk) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := d.base.Close()
	for _, l := range d.layers {
		err = errors.Join(err, l.data.Close())
	}
	return err
}

// covered says whether snapshots include the disk.
func (d *disk) covered() bool { return d.unfit == "" && !d.detached.Load() }

// track switches change tracking on or off.
func (d *disk) track(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if on != d.tracking.on {
		d.tracking.on = on
		d.tracking.restart(d.capacity.Load())
	}
}

// reset makes every change ID until now invalid.
func (d *disk) reset() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.tracking.restart(d.capacity.Load())
}

// write writes as the guest does: to the topmost overlay, or to the image.
func (d *disk) write(p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off < 0 || int64(len(p)) > d.capacity.Load()-off {
		return errBeyondEnd
	}
	end := off + int64(len(p))
	top := d.base
	if n := len(d.layers); n > 0 {
		if err := d.copyUp(off, end); err != nil {
			return err
		}
		top = d.layers[n-1].data
		d.layers[n-1].dirty.addBytes(off, end)
	}
	if _, err := top.WriteAt(p, off); err != nil {
		return err
	}
	d.allocated.addBytes(off, end)
	d.tracking.written(off, end)
	return nil
}

// copyUp copies the blocks that a write covers only in part into the topmost overlay.
func (d *disk) copyUp(from, to int64) error {
	top := d.layers[len(d.layers)-1]
	for _, b := range []int64{from / blockSize, (to - 1) / blockSize} {
		start, end := b*blockSize, min((b+1)*blockSize, d.capacity.Load())
		if to <= from || top.dirty.has(b) || from <= start && to >= end {
			continue
		}
		old := make([]byte, end-start)
		if err := d.read(old, start, len(d.layers)); err != nil {
			return err
		}
		if _, err := top.data.WriteAt(old, start); err != nil {
			return err
		}
		top.dirty.add(b)
	}
	return nil
}

// read fills p from the image and the lowest depth overlays: 0 is the image alone, all of them the live state. The
// caller holds the lock.
func (d *disk) read(p []byte, off int64, depth int) error {
	for len(p) > 0 {
		b := off / blockSize
		from := d.holder(b, depth)
		n := min((b+1)*blockSize-off, int64(len(p)))
		for n < int64(len(p)) && d.holder((off+n)/blockSize, depth) == from {
			n = min(n+blockSize, int64(len(p)))
		}
		if m, err := from.ReadAt(p[:n], off); int64(m) < n {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

// holder is the file that holds a block, seen through the lowest depth overlays.
func (d *disk) holder(b int64, depth int) *os.File {
	for i := depth - 1; i >= 0; i-- {
		if d.layers[i].dirty.has(b) {
			return d.layers[i].data
		}
	}
	return d.base
}

// depthOf is the number of overlays below a snapshot; "" is the live state. The caller holds the lock.
func (d *disk) depthOf(snapshot string) (int, error) {
	if snapshot == "" {
		return len(d.layers), nil
	}
	i := slices.IndexFunc(d.layers, func(l *layer) bool { return l.snapshot == snapshot })
	if i < 0 {
		return 0, fmt.Errorf("%w: %s", errNoSnapshot, snapshot)
	}
	return i, nil
}

// grow makes the disk larger. Its tracking goes on: what is new was never written. A disk with snapshots can't grow.
func (d *disk) grow(capacity int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch was := d.capacity.Load(); {
	case len(d.layers) > 0:
		return errHasSnapshots
	case capacity <= was || capacity%sectorSize != 0:
		return fmt.Errorf("%w: %d bytes after %d", errBadSize, capacity, was)
	}
	if err := d.base.Truncate(capacity); err != nil {
		return err
	}
	d.allocated = d.allocated.resized(capacity)
	for i, interval := range d.tracking.intervals {
		d.tracking.intervals[i] = interval.resized(capacity)
	}
	d.capacity.Store(capacity)
	return nil
}

// revert gives the disk the bytes and the tracking of its newest snapshot again. Change IDs that come after it are
// those that came before, for other bytes.
func (d *disk) revert() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.layers[len(d.layers)-1]
	if err := l.data.Truncate(0); err != nil {
		return err
	}
	capacity := d.capacity.Load()
	l.dirty, d.allocated = newBlocks(capacity), l.frozen.allocated.clone()
	d.tracking.on, d.tracking.epoch = l.frozen.on, l.frozen.epoch
	d.tracking.intervals = append(slices.Clip(l.frozen.intervals), newBlocks(capacity))
	return nil
}

// has says whether the disk is in a snapshot.
func (d *disk) has(snapshot string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	_, ok := d.frozenAt(snapshot)
	return ok
}

// newest is the newest snapshot of the disk; "" for none.
func (d *disk) newest() string {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if n := len(d.layers); n > 0 {
		return d.layers[n-1].snapshot
	}
	return ""
}

// freeze puts the overlay of a snapshot on top.
func (d *disk) freeze(snapshot string) (*frozen, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.numbered++
	suffix := fmt.Sprintf("-%06d", d.numbered)
	data, err := os.OpenFile(strings.TrimSuffix(d.flat, "-flat.vmdk")+suffix+"-delta.vmdk",
		os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	l := &layer{
		snapshot: snapshot, file: strings.TrimSuffix(d.file, ".vmdk") + suffix + ".vmdk", data: data,
		dirty: newBlocks(d.capacity.Load()), frozen: d.tracking.freeze(d.allocated, d.capacity.Load()),
	}
	d.layers = append(d.layers, l)
	return l.frozen, nil
}

// merge removes the overlay of a snapshot by writing its blocks into the overlay or image below. It does nothing to a
// disk that is not in the snapshot.
func (d *disk) merge(snapshot string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, err := d.depthOf(snapshot)
	if errors.Is(err, errNoSnapshot) {
		return nil
	}
	l := d.layers[i]
	below := d.base
	if i > 0 {
		below = d.layers[i-1].data
		d.layers[i-1].dirty.unite(l.dirty)
	}
	last := (d.capacity.Load() + blockSize - 1) / blockSize
	for b := l.dirty.next(0, last, true); b < last; b = l.dirty.next(b, last, true) {
		end := l.dirty.next(b, last, false)
		from, to := b*blockSize, min(end*blockSize, d.capacity.Load())
		if err := copyRange(below, l.data, from, to); err != nil {
			return err
		}
		b = end
	}
	d.layers = slices.Delete(d.layers, i, i+1)
	return errors.Join(l.data.Close(), os.Remove(l.data.Name()))
}

// frozenAt is what tracking knew when a snapshot was taken.
func (d *disk) frozenAt(snapshot string) (*frozen, bool) {
	i := slices.IndexFunc(d.layers, func(l *layer) bool { return l.snapshot == snapshot })
	if i < 0 {
		return nil, false
	}
	return d.layers[i].frozen, true
}
