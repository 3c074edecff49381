package nbd

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// AllHoles says whether a regular file has no data at all, so that all of it reads as zeros. Anything that is in
// unverified is false: a block device, an empty or missing file, a file system that can't say.
func AllHoles(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // it was only read
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() == 0 {
		return false
	}
	_, err = unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO)
}
