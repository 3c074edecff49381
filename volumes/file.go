package volumes

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// inspectLocal looks at a file or device.
func inspectLocal(path string) (Info, error) {
	stat, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{Kind: nbd.File}, nil
	}
	if err != nil {
		return Info{}, err
	}
	if _, err := nbd.KindOfFile(path, stat); err != nil { // before it is opened: a FIFO could block for ever
		return Info{}, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return Info{}, err
	}
	info, err := infoOf(f)
	info.ReadOnly = syscall.Access(path, 2) != nil // W_OK
	return info, errors.Join(err, f.Close())
}

// infoOf asks an open file or device.
func infoOf(f *os.File) (Info, error) {
	stat, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	info := Info{Exists: true, Stamp: nbd.StampFile(f)}
	if info.Kind, err = nbd.KindOfFile(f.Name(), stat); err != nil {
		return Info{}, err
	}
	info.Identity, info.Size, err = nbd.IdentifyFile(f)
	return info, err
}

// Create makes a sparse regular file of size bytes, and makes it durable. Errors: Conflict if there is anything at that
// path, Invalid for a size that can't be, and what the kernel answers.
func Create(path string, size int64) error {
	op := "create target " + path
	if size <= 0 {
		return job.Errorf(op, job.Invalid, "", "a target of %d bytes makes no sense", size)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &job.Error{Op: op, Kind: job.Conflict, Next: "Remove it, or name another target", Err: err}
	}
	if err != nil {
		return nbd.Classify(op, err)
	}
	err = errors.Join(f.Truncate(size), f.Sync(), f.Close())
	if err != nil {
		return nbd.Classify(op, errors.Join(err, os.Remove(path)))
	}
	return nbd.Classify(op, nbd.SyncFolder(filepath.Dir(path)))
}

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
			return job.Errorf("check target", job.Invalid, "", "%w", err)
		}
		dir = filepath.Dir(dir)
	}
}

// openFile opens a regular file for reading and writing, and locks it.
func openFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := patiently(ctx, func() error { return lock(f) }); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// purgeFile removes a regular file, and nothing else. Gone already is no error.
func purgeFile(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return job.Errorf("remove target", job.IO, "", "%w", err)
	case !info.Mode().IsRegular():
		return job.Errorf("remove target", job.Conflict, "Look what it is, and remove it by hand",
			"%s is no regular file any more", path)
	}
	if err := os.Remove(path); err != nil {
		return job.Errorf("remove target", job.Permission, "Remove it by hand", "%w", err)
	}
	return nil
}
