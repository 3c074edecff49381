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

const lookSize = 1 << 20 // bytes that are read at once

// holdsData says whether an open file or device holds anything but zeros, as far as a look at some places tells
// (nbd.Places). Holes are not read.
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
	for _, place := range nbd.Places(size) {
		for off := place.Offset; off < place.End(); off += lookSize {
			b, err := read(off, min(lookSize, place.End()-off))
			if err != nil || len(bytes.TrimLeft(b, "\x00")) > 0 {
				return err == nil, err
			}
		}
	}
	return false, nil
}
