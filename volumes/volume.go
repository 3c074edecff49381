package volumes

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Volume is a target that is open for writing, and locked where that is possible. Its methods may be called from many
// goroutines, Close once.
type Volume struct {
	path   string   // of a file or device, or the URI of an export
	file   *os.File // likewise; nil for an export and for null
	target *nbd.Target
	made   bool          // by Open, just now
	closed chan struct{} // closed when the kernel has let go of the file; nil for what has none
}

// Options say how a target is opened.
type Options struct {
	TLS    nbd.TLS // of an export
	Create bool    // a sparse file is made if there is nothing at the path
	Size   int64   // of that file, bytes
}

// Open opens a target for writing, and keeps every other transfer of this program away from it. An export is connected
// to by each copy. Errors: Conflict if another transfer has it or it is mounted, NotFound if there is nothing, Invalid
// for what is no target, and what the kernel answers.
func Open(ctx context.Context, target string, o Options) (*Volume, error) {
	switch {
	case target == nbd.NullName:
		return &Volume{target: nbd.NullTarget()}, nil
	case nbd.IsURI(target):
		t, err := nbd.ExportTarget(target, o.TLS)
		if err != nil {
			return nil, err
		}
		return &Volume{path: target, target: t}, nil
	default:
		v, err := openLocal(ctx, target, o)
		return v, nbd.Classify("", err)
	}
}

func openLocal(ctx context.Context, path string, o Options) (*Volume, error) {
	made, err := makeMissing(path, o)
	if err != nil {
		return nil, err
	}
	v, err := openThere(ctx, spot{path: path})
	switch {
	case err != nil && made:
		return nil, errors.Join(err, os.Remove(path))
	case err != nil:
		return nil, err
	}
	v.made = made
	return v, nil
}

// makeMissing makes a file if there is nothing at the path.
func makeMissing(path string, o Options) (made bool, err error) {
	if !o.Create {
		return false, nil
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return false, nil // opening says what is wrong
	}
	if strings.HasPrefix(filepath.Clean(path), "/dev/") {
		return false, job.Errorf("create target", job.NotFound, "", "there is no device %s", path)
	}
	return true, Create(path, o.Size)
}

// open opens an allowed target for writing, and locks it. Its place is resolved and checked first; what is opened is
// what lies there without following a link.
func (a Allow) open(ctx context.Context, target string) (*Volume, error) {
	where, err := a.locate(target)
	if err != nil {
		return nil, err
	}
	if nbd.IsURI(target) {
		return Open(ctx, target, Options{TLS: a.TLS})
	}
	v, err := openThere(ctx, where)
	if err != nil {
		return nil, nbd.Classify("open target "+target, err)
	}
	v.path = target
	return v, nil
}

func openThere(ctx context.Context, where spot) (*Volume, error) {
	stat, err := os.Stat(where.path)
	if err != nil {
		return nil, err
	}
	kind, err := nbd.KindOfFile(where.path, stat) // before it is opened: a FIFO could block for ever
	if err != nil {
		return nil, err
	}
	open := openFile
	if kind == nbd.Block {
		open = openDevice
	}
	f, err := open(ctx, where)
	if err != nil {
		return nil, err
	}
	closed := make(chan struct{})
	target, err := nbd.FileTarget(f, func() error {
		defer close(closed)
		return errors.Join(unlock(f), f.Close())
	})
	if err == nil && target.Kind() != kind {
		err = job.Errorf("open "+where.path, job.Conflict, "Try again", "%s was replaced while it was opened",
			where.path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Volume{path: where.path, file: f, target: target, closed: closed}, nil
}

// Target is the open target for a copy.
func (v *Volume) Target() *nbd.Target { return v.target }

// Info asks the open target; an export is asked over a connection of its own.
func (v *Volume) Info(ctx context.Context) (Info, error) {
	switch v.target.Kind() {
	case nbd.Null:
		return Info{Kind: nbd.Null, Exists: true, Identity: nbd.NullName, id: identity{kind: nbd.Null}}, nil
	case nbd.NBD:
		return exportInfo(ctx, v.target, v.path)
	default:
		info, err := infoOf(v.file)
		return info, nbd.Classify("look at target "+v.path, err)
	}
}

// Confirm looks whether the name of a file or device still leads to what is open. Errors: Conflict if it leads
// elsewhere or nowhere.
func (v *Volume) Confirm() error {
	if v.file == nil {
		return nil
	}
	there, err := os.Stat(v.path)
	if err == nil {
		var held os.FileInfo
		if held, err = v.file.Stat(); err == nil && os.SameFile(there, held) {
			return nil
		}
	}
	if err == nil || errors.Is(err, os.ErrNotExist) {
		err = job.Errorf("confirm target", job.Conflict, "Find out who replaced it, then run a full round",
			"%s is not the file any more that was written", v.path)
	}
	return nbd.Classify("confirm target", err)
}

// settled makes what was written to a file or device durable, and takes its stamp.
func (v *Volume) settled(ctx context.Context) (string, error) {
	type answer struct {
		stamp string
		err   error
	}
	result := make(chan answer, 1)
	go func() { // a kernel that does not answer must not hold the caller
		stamp, err := settled(ctx, v.file, v.target.Kind())
		result <- answer{stamp, err}
	}()
	select {
	case a := <-result:
		return a.stamp, a.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// resize makes a regular file at least least bytes large, and with shrink at most most.
func (v *Volume) resize(least, most int64, shrink bool) error {
	st, err := v.file.Stat()
	if err != nil {
		return nbd.Classify("look at target "+v.path, err)
	}
	size := max(least, st.Size())
	if shrink {
		size = min(size, most)
	}
	if size != st.Size() {
		err = errors.Join(setSize(v.file, size), v.file.Sync())
	}
	return nbd.Classify("change the size of target "+v.path, err)
}

// Remove removes a file that was made for a copy that then could not begin. The target must be closed.
func (v *Volume) Remove() error {
	if v.file == nil {
		return nil
	}
	return nbd.Classify("remove target", os.Remove(v.path))
}

// Close gives the target back; see nbd.Target.
func (v *Volume) Close() error { return nbd.Classify("close target", v.target.Close()) }
