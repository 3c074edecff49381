package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// spot is where an allowed local target is or will be: an absolute path without links, and the allowed folder that it
// lies in.
type spot struct {
	path string
	root string // "" for a device: the kernel and the administrator make those names
}

// open opens what is at the spot. Below its root no link is followed, also one that has just been put there.
// Errors: those of the kernel, and Permission for a link.
func (s spot) open(flags int, mode os.FileMode) (*os.File, error) {
	flags |= unix.O_NONBLOCK | unix.O_CLOEXEC
	if s.root == "" {
		return os.OpenFile(s.path, flags, mode)
	}
	folder, err := s.folder(false)
	if err != nil {
		return nil, err
	}
	defer func() { _ = folder.Close() }() // nothing was written
	fd, err := unix.Openat(int(folder.Fd()), filepath.Base(s.path), flags|unix.O_NOFOLLOW, uint32(mode.Perm()))
	if err != nil {
		return nil, s.failure("open", err)
	}
	return os.NewFile(uintptr(fd), s.path), nil
}

// folder opens the folder of the spot, step by step from its root. Where create is set, missing ones are made.
func (s spot) folder(create bool) (*os.File, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := unix.Open(s.root, flags, 0)
	if err != nil {
		return nil, s.failure("open root of", err)
	}
	steps := strings.TrimPrefix(strings.TrimPrefix(filepath.Dir(s.path), s.root), "/")
	for step := range strings.SplitSeq(steps, "/") {
		if step == "" {
			continue
		}
		next, err := unix.Openat(fd, step, flags|unix.O_NOFOLLOW, 0)
		if create && errors.Is(err, unix.ENOENT) {
			if err = unix.Mkdirat(fd, step, 0o750); err == nil || errors.Is(err, unix.EEXIST) {
				next, err = unix.Openat(fd, step, flags|unix.O_NOFOLLOW, 0)
			}
		}
		if cerr := unix.Close(fd); err == nil && cerr != nil {
			err = errors.Join(cerr, unix.Close(next))
		}
		if err != nil {
			return nil, s.failure("open folder of", err)
		}
		fd = next
	}
	return os.NewFile(uintptr(fd), filepath.Dir(s.path)), nil
}

func (s spot) failure(op string, err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return job.Errorf(op+" "+s.path, job.Permission, "Find out who put it there, and name the place it leads to",
			"a link or file is in the way that was not there before: %w", err)
	}
	return &fs.PathError{Op: op, Path: s.path, Err: err}
}

// create makes a sparse regular file of size bytes where nothing is, and makes it durable. Below a root the folders
// above it are made if they are missing. Errors: Conflict if there is anything, Invalid for a size that can't be, and
// what the kernel answers.
func (s spot) create(size int64) error {
	op := "create target " + s.path
	if size <= 0 {
		return job.Errorf(op, job.Invalid, "", "a target of %d bytes makes no sense", size)
	}
	if s.root != "" {
		folder, err := s.folder(true)
		if err != nil {
			return nbd.Classify(op, err)
		}
		if err := folder.Close(); err != nil {
			return nbd.Classify(op, err)
		}
	}
	f, err := s.open(os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &job.Error{Op: op, Kind: job.Conflict, Next: "Remove it, or name another target", Err: err}
	}
	if err != nil {
		return nbd.Classify(op, err)
	}
	if err = errors.Join(setSize(f, size), f.Sync(), f.Close()); err != nil {
		return nbd.Classify(op, errors.Join(err, s.remove()))
	}
	return nbd.Classify(op, nbd.SyncFolder(filepath.Dir(s.path)))
}

// setSize makes a file that large. A file system has a largest size of files, whatever room it has.
func setSize(f *os.File, size int64) error {
	err := f.Truncate(size)
	if errors.Is(err, unix.EFBIG) {
		return fmt.Errorf("the file system of %s takes no file of %d bytes: %w", filepath.Dir(f.Name()), size, err)
	}
	return err
}

// remove removes the name at the spot.
func (s spot) remove() error {
	if s.root == "" {
		return os.Remove(s.path)
	}
	folder, err := s.folder(false)
	if err != nil {
		return err
	}
	err = unix.Unlinkat(int(folder.Fd()), filepath.Base(s.path), 0)
	if err != nil {
		err = s.failure("remove", err)
	}
	return errors.Join(err, folder.Close())
}
