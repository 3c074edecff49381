package sim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
)

// Values for Seek that the standard library does not name.
const (
	seekData = 3
	seekHole = 4
)

// eachData calls f for each stretch of a file that is not a hole.
func eachData(file *os.File, size int64, f func(from, to int64) error) error {
	for at := int64(0); at < size; {
		from, err := file.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return nil // a hole to the end
		}
		if err != nil {
			return fmt.Errorf("look for data in %s: %w", file.Name(), err)
		}
		to, err := file.Seek(from, seekHole)
		if err != nil {
			return fmt.Errorf("look for holes in %s: %w", file.Name(), err)
		}
		if to = min(to, size); from < to {
			if err := f(from, to); err != nil {
				return err
			}
		}
		at = to
	}
	return nil
}

// copyImage copies a raw image and keeps its holes. On file systems that can share bytes they are shared, not copied.
func copyImage(from, to string) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	info, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if err := dst.Truncate(info.Size()); err != nil {
		return err
	}
	return eachData(src, info.Size(), func(a, b int64) error { return copyRange(dst, src, a, b) })
}

// copyRange copies the bytes [from, to) to the same place of another file.
func copyRange(dst, src *os.File, from, to int64) error {
	if _, err := src.Seek(from, io.SeekStart); err != nil {
		return err
	}
	if _, err := dst.Seek(from, io.SeekStart); err != nil {
		return err
	}
	_, err := io.CopyN(dst, src, to-from)
	return err
}
