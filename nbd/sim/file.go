package sim

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// File is a disk in a regular file. Its size stays what it was when it was opened.
type File struct {
	f    *os.File
	size int64
}

// OpenFile opens a raw image. The error is of kind Invalid, or tells what the kernel answered.
func OpenFile(path string, readOnly bool) (*File, error) {
	const op = "open image"
	flags := os.O_RDWR
	if readOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(path, flags|unix.O_NONBLOCK, 0) // opening a FIFO must not block
	if err != nil {
		return nil, job.SystemError(op, "", err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, &job.Error{Op: op, Kind: job.Invalid, Next: "Give a raw image", Err: errors.Join(err, f.Close())}
	}
	return &File{f, info.Size()}, nil
}

// Close closes the file.
func (f *File) Close() error { return f.f.Close() }

// Size is the size of the disk in bytes.
func (f *File) Size() int64 { return f.size }

// ReadAt reads all of p. It fails if the file was made shorter meanwhile.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// WriteAt writes all of p.
func (f *File) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }

// Zero uses the file system's call for it, or writes zeros if there is none.
func (f *File) Zero(off, n int64, punch bool) error {
	mode := uint32(unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_ZERO_RANGE)
	if punch {
		mode = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE
	}
	for {
		err := unix.Fallocate(int(f.f.Fd()), mode, off, n)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EOPNOTSUPP):
			return f.writeZeros(off, n)
		default:
			return err
		}
	}
}

func (f *File) writeZeros(off, n int64) error {
	zeros := make([]byte, min(n, 1<<20))
	for n > 0 {
		part := zeros[:min(n, int64(len(zeros)))]
		if _, err := f.f.WriteAt(part, off); err != nil {
			return err
		}
		off, n = off+int64(len(part)), n-int64(len(part))
	}
	return nil
}

// Flush waits until the file is durable.
func (f *File) Flush() error { return f.f.Sync() }

// Extents are the ranges that the file system has allocated. The call moves the file's position, which is not used.
func (f *File) Extents(off, n int64) (job.Extents, error) {
	var out job.Extents
	for at := off; at < off+n; {
		from, err := unix.Seek(int(f.f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && from >= off+n {
			break
		}
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return job.Extents{{Offset: off, Length: n}}, nil // the file system cannot tell
		}
		if err != nil {
			return nil, err
		}
		to, err := unix.Seek(int(f.f.Fd()), from, unix.SEEK_HOLE)
		if errors.Is(err, unix.ENXIO) {
			return nil, io.ErrUnexpectedEOF // it was made shorter
		}
		if err != nil {
			return nil, err
		}
		to = min(to, off+n)
		out = append(out, job.Extent{Offset: from, Length: to - from})
		at = to
	}
	return out.Merge(0), nil
}
