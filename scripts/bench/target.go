package main

import (
	"context"
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
	"libguestfs.org/libnbd"
)

const (
	null      = "null:"  // a target that keeps nothing
	spotSize  = 64 << 10 // bytes spoilt in one place
	spots     = 256      // places
	wipeStep  = 1 << 30  // bytes of one zero request
	wholeRead = 4 << 30  // bytes up to which a server's content is read back after each pass
	spoilt    = byte(0xa5)
)

// target is where tools copy to.
type target interface {
	// reset changes the target so that only a copy that writes all of it passes the check. It is not timed.
	reset(ctx context.Context, first bool) error
	// check compares the target with the source. first is the pass of a tool that is not timed.
	check(ctx context.Context, first bool) error
}

// nowhere is the target null:.
type nowhere struct{}

func (nowhere) reset(context.Context, bool) error { return nil }
func (nowhere) check(context.Context, bool) error { return nil }

// memory is a server's memory. The first pass finds zeros and allocates the memory; later passes find garbage in some
// spots.
type memory struct {
	uri   string
	want  content
	spoil []int64 // offsets of spots, which a copy overwrites; none if each copy must find only zeros
}

func (m memory) reset(_ context.Context, first bool) error {
	wipe := first || len(m.spoil) == 0
	return withHandle(m.uri, func(h *libnbd.Libnbd) error {
		for off := int64(0); wipe && off < m.want.size; off += wipeStep {
			if err := h.Zero(uint64(min(wipeStep, m.want.size-off)), uint64(off), nil); err != nil {
				return err
			}
		}
		for _, off := range m.spoil {
			if err := h.Pwrite(garbage(), uint64(off), nil); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m memory) check(ctx context.Context, first bool) error {
	if !first && m.want.size > wholeRead {
		return nil
	}
	return m.want.sameAt(ctx, m.uri)
}

// newFile is a file that does not exist before a pass.
type newFile struct {
	path string
	want string // path of a file like it
}

func (f newFile) reset(context.Context, bool) error {
	err := os.Remove(f.path)
	unix.Sync() // so that no pass pays for another's writes
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (f newFile) check(ctx context.Context, _ bool) error { return compareFiles(ctx, f.path, f.want) }

// device is a block device that is as large as the source.
type device struct {
	path string
	want string // path of a file with the same content
	size int64
}

func (d device) reset(context.Context, bool) (err error) {
	f, err := os.OpenFile(d.path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, off := range evenly(d.size) {
		if _, err := f.WriteAt(garbage(), off); err != nil {
			return err
		}
	}
	unix.Sync()
	return unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0) // so that no pass has to drop another's cached blocks
}

func (d device) check(ctx context.Context, _ bool) error { return compareFiles(ctx, d.path, d.want) }

// evenly spreads spots over a disk.
func evenly(size int64) []int64 {
	var out []int64
	for i := range int64(spots) {
		if off := size / spots * i &^ (spotSize - 1); off+spotSize <= size {
			out = append(out, off)
		}
	}
	return out
}

func garbage() []byte {
	b := make([]byte, spotSize)
	for i := range b {
		b[i] = spoilt
	}
	return b
}

// withHandle connects to a server, and disconnects in order if do succeeds.
func withHandle(uri string, do func(*libnbd.Libnbd) error) error {
	h, err := libnbd.Create()
	if err != nil {
		return err
	}
	err = h.ConnectUri(uri)
	if err == nil {
		err = do(h)
	}
	if err == nil {
		err = h.Shutdown(nil)
	}
	if cerr := h.Close(); cerr != nil { // a nil pointer must not become an error that is not nil
		err = errors.Join(err, cerr)
	}
	return err
}
