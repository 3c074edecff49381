package volumes

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/nbd"
)

const (
	lookEnds  = 1 << 20  // bytes at both ends of a volume that are read: tables of partitions, labels, file systems
	lookPlace = 64 << 10 // bytes at each of lookCount places between them
	lookCount = 16
)

// holdsData says whether an open file or device holds anything but zeros, as far as a look at its ends and at some
// places between them tells. Holes are not read.
func holdsData(f *os.File, kind nbd.Kind, size int64) (bool, error) {
	if kind == nbd.File && nbd.AllHoles(f) {
		return false, nil
	}
	return anyData(size, func(off, n int64) ([]byte, error) {
		if kind == nbd.File {
			at, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) || err == nil && at >= off+n {
				return nil, nil
			}
		}
		b := make([]byte, n)
		got, err := f.ReadAt(b, off)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return b[:got], err
	})
}

// exportHoldsData is holdsData for an export, over a connection of its own.
func exportHoldsData(ctx context.Context, t *nbd.Target, size int64) (found bool, err error) {
	err = t.Read(ctx, func(read func(off, n int64) ([]byte, error)) error {
		found, err = anyData(size, read)
		return err
	})
	return found, err
}

func anyData(size int64, read func(off, n int64) ([]byte, error)) (bool, error) {
	look := func(off, n int64) (bool, error) {
		b, err := read(off, min(n, size-off))
		return len(bytes.TrimLeft(b, "\x00")) > 0, err
	}
	if found, err := look(0, lookEnds); found || err != nil || size <= lookEnds {
		return found, err
	}
	if found, err := look(max(lookEnds, size-lookEnds), lookEnds); found || err != nil {
		return found, err
	}
	step := max(lookPlace, size/lookCount) &^ 4095
	for off := int64(lookEnds); off < size-lookEnds; off += step {
		if found, err := look(off, lookPlace); found || err != nil {
			return found, err
		}
	}
	return false, nil
}
