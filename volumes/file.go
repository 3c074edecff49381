package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/vmferry/vmferry/job"
)

// Create makes a sparse regular file of size bytes, and makes it durable. Errors: Conflict if there is anything at that
// path, Invalid for a size that can't be, and what the kernel answers.
func Create(path string, size int64) error { return spot{path: path}.create(size) }

// canBeMade says whether a file could be made: the nearest thing above it that exists must be a folder.
func canBeMade(path string) error {
	dir := filepath.Dir(path)
	for {
		st, err := os.Stat(dir)
		switch {
		case err == nil && st.IsDir():
			return nil
		case err == nil:
			return job.Errorf("check target", job.Invalid, "", "%s is not a folder", dir)
		case !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir):
			return job.SystemError("check target", "", err)
		}
		dir = filepath.Dir(dir)
	}
}

// openFile opens a regular file for reading and writing, and locks it.
func openFile(ctx context.Context, where spot) (*os.File, error) {
	f, err := where.open(os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := patiently(ctx, func() error { return lock(f) }); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
