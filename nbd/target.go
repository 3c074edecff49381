package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/vmferry/vmferry/job"
)

// TargetInfo is what can be said about a target without changing it.
type TargetInfo struct {
	Kind     Kind
	Exists   bool  // false: nothing is there; then Kind is what would be made, and the rest is empty
	Size     int64 // bytes; 0 for null
	ReadOnly bool
	Stamp    string // of a regular file: differs when somebody has written to it; else ""
	Identity string // names this very target: a file that was deleted and made anew has another
}

// InspectTarget looks at a target and changes nothing. It waits for an NBD server until ctx ends, at most a minute.
func InspectTarget(ctx context.Context, target string) (TargetInfo, error) {
	switch {
	case target == "":
		return TargetInfo{}, job.Errorf("inspect target", job.Invalid, "", "no target is named")
	case target == nullName:
		return TargetInfo{Kind: Null, Exists: true, Identity: nullName}, nil
	case isURI(target):
		info, err := inspectExport(ctx, target)
		return info, ended(ctx, "inspect target "+Redact(target), err)
	default:
		info, err := inspectLocal(target)
		return info, fail("inspect target "+target, err)
	}
}

func inspectExport(ctx context.Context, uri string) (TargetInfo, error) {
	d, err := openNBD(ctx, uri, dialing{deadline: defaultDeadline})
	if err != nil {
		return TargetInfo{}, err
	}
	info := TargetInfo{Kind: NBD, Exists: true, Size: d.size, ReadOnly: d.readOnly}
	info.Identity = fmt.Sprintf("%s size=%d", Redact(uri), d.size)
	return info, <-d.close()
}

func inspectLocal(path string) (TargetInfo, error) {
	kind, err := localKind(path)
	if errors.Is(err, fs.ErrNotExist) {
		return TargetInfo{Kind: File}, nil
	}
	if err != nil {
		return TargetInfo{}, err
	}
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return TargetInfo{}, err
	}
	info := TargetInfo{Kind: kind, Exists: true}
	info.Identity, info.Size, err = identify(f)
	info.Stamp = stampOf(f, kind)
	info.ReadOnly = syscall.Access(path, 2) != nil // W_OK
	return info, errors.Join(err, f.Close())
}

// identify names a file by where it is and which one it is there.
func identify(f *os.File) (identity string, size int64, err error) {
	size, err = f.Seek(0, 2)
	if err != nil {
		return "", 0, err
	}
	path, err := filepath.Abs(f.Name())
	if err != nil {
		return "", 0, err
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		return "", 0, err
	}
	return fmt.Sprintf("%s dev=%x inode=%d", path, st.Dev, st.Ino), size, nil
}

// CreateTarget makes a sparse regular file of size bytes, and makes it durable. It fails with Conflict if there is
// anything at that path.
func CreateTarget(_ context.Context, path string, size int64) error {
	op := "create target " + path
	if size <= 0 {
		return job.Errorf(op, job.Invalid, "", "a target of %d bytes makes no sense", size)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &job.Error{Op: op, Kind: job.Conflict, Next: "Remove it, or name another target.", Err: err}
	}
	if err != nil {
		return fail(op, err)
	}
	err = errors.Join(f.Truncate(size), f.Sync(), f.Close())
	if err != nil {
		return fail(op, errors.Join(err, os.Remove(path)))
	}
	return fail(op, syncDir(filepath.Dir(path)))
}
