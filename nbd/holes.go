package nbd

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// AllHoles says whether a regular file has no data at all, so that all of it reads as zeros. It returns false where
// this is not certain: for a block device, an empty or missing file, or a file system that does not report holes.
func AllHoles(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // nothing was written, so no error matters
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() == 0 {
		return false
	}
	_, err = unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO)
}
