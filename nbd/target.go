package nbd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// Opener gives a copy its target. An open Target is its own Opener; a target that can only be opened, or made, when the
// size of the disk is known is another.
type Opener interface {
	// Name names the target for people, without secrets.
	Name() string
	// Open returns the open target; size is that of the disk in bytes. Copy calls it when the source is open, and again
	// after a lost connection: it then returns the same Target. Copy and Verify never close it.
	Open(ctx context.Context, size int64) (*Target, error)
}

// Target is an open target: who opened it owns it, and closes it when nothing reads or writes it any more. Copies and
// verifications take it one after the other, never two at once. The zero value is of no use.
type Target struct {
	name    string
	kind    Kind
	file    *os.File // of a file or block device; nil for the others
	uri     string   // of an export
	tls     TLS      // likewise
	fresh   bool     // it was made just now and holds only zeros
	release func() error

	mu      sync.Mutex
	users   int           // devices that were opened on the file and are not closed
	closed  bool          // no more are opened
	drained bool          // closed, and users is 0
	idle    chan struct{} // closed with drained
}

// FileTarget is a regular file or block device that is open for reading and writing. release is called by Close when
// nothing uses the file any more; it closes the file. Errors: Invalid for what is neither file nor block device.
func FileTarget(f *os.File, release func() error) (*Target, error) {
	kind, err := fileKind(f)
	if err != nil {
		return nil, err
	}
	return &Target{name: f.Name(), kind: kind, file: f, release: release, idle: make(chan struct{})}, nil
}

// Fresh notes that the target was made just now and holds only zeros, as Task.TargetIsZero does for a copy that makes
// its target. It is called before the only copy.
func (t *Target) Fresh() { t.fresh = true }

// ExportTarget is an export of an NBD server. Connections to it are made by each copy. Errors: Invalid for what is no
// NBD URI, and for one of TLS whose server tls can't verify.
func ExportTarget(uri string, tls TLS) (*Target, error) {
	if err := tls.Covers(uri); err != nil {
		return nil, err
	}
	return &Target{name: Redact(uri), kind: NBD, uri: uri, tls: tls}, nil
}

// NullTarget takes everything and keeps nothing.
func NullTarget() *Target { return &Target{name: NullName, kind: Null} }

// Name names the target for people, without secrets.
func (t *Target) Name() string { return t.name }

// Kind is what the target is.
func (t *Target) Kind() Kind { return t.kind }

// Open returns t.
func (t *Target) Open(context.Context, int64) (*Target, error) { return t, nil }

// Close gives the target back. If the kernel does not let go of a local file, Close returns after some seconds, and the
// file is closed when the kernel does.
func (t *Target) Close() error {
	if t.release == nil {
		return nil
	}
	t.use(func() { t.closed = true })
	result := make(chan error, 1)
	go func() {
		<-t.idle
		result <- t.release()
	}()
	timer := time.NewTimer(2 * closeGrace)
	defer timer.Stop()
	select {
	case err := <-result:
		return err
	case <-timer.C:
		return nil
	}
}

// use changes how the file is used, and notes when nothing uses it any more.
func (t *Target) use(change func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change()
	if t.closed && t.users == 0 && !t.drained {
		t.drained = true
		close(t.idle)
	}
}

const (
	usePatience = 250 * time.Millisecond // for a device that is being closed
	usePause    = 10 * time.Millisecond
)

// begin is called before a device uses the file. One that an earlier copy could not close, because the kernel does not
// answer, may still write: then there is no other. Errors: Conflict for that, and after Close.
func (t *Target) begin(ctx context.Context) error {
	for began := time.Now(); ; {
		err := t.take()
		if err == nil || time.Since(began) > usePatience {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(usePause):
		}
	}
}

func (t *Target) take() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return job.Errorf("use target "+t.name, job.Conflict, "", "it is closed already")
	case t.users > 0:
		return job.Errorf("use target "+t.name, job.Conflict, "Wait until its disk answers, then try again",
			"a write of an earlier attempt has not ended")
	}
	t.users++
	return nil
}

// Lend keeps copies and verifications of this process away from the target until the returned function is called, once:
// meanwhile another process uses its file. Errors: Conflict if one of them uses it, and after Close.
func (t *Target) Lend(ctx context.Context) (giveBack func(), err error) {
	if err := t.begin(ctx); err != nil {
		return nil, err
	}
	return t.end, nil
}

func (t *Target) end() { t.use(func() { t.users-- }) }

// identity names the target in checkpoints: a local file by where it is and which one it is there, an export by its
// URI. It is empty for null.
func (t *Target) identity() (string, error) {
	switch t.kind {
	case Null:
		return "", nil
	case NBD:
		return CanonicalURI(t.uri)
	default:
		identity, _, err := IdentifyFile(t.file)
		return identity, err
	}
}

// device opens connections to the target: for writing, or to read back what was written.
func (t *Target) device(ctx context.Context, how dialing, write bool) (*device, error) {
	switch t.kind {
	case Null:
		return openNull(), nil
	case NBD:
		how.tls = t.tls
		return openNBD(ctx, t.uri, how)
	default:
		if err := t.begin(ctx); err != nil {
			return nil, err
		}
		d, err := describeLocal(t.file, t.kind, write)
		if err != nil {
			t.end()
			return nil, err
		}
		release := d.release
		d.release = func() error { defer t.end(); return release() }
		return d.connect(ctx)
	}
}

// IdentifyFile names an open file by where it is and which one it is there, and gives its size in bytes.
func IdentifyFile(f *os.File) (identity string, size int64, err error) {
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

// StampFile differs after another process has written to a regular file; it is empty for everything else.
func StampFile(f *os.File) string {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return ""
	}
	return fmt.Sprintf("%s%d", changedMark, info.ModTime().UnixNano())
}

const changedMark = "changed="

// AllHoles says whether an open regular file has no data at all, so that all of it reads as zeros. It is false where
// this is not certain: for a block device, an empty file, a file system that does not tell.
func AllHoles(f *os.File) bool {
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() == 0 {
		return false
	}
	_, err = unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	return errors.Is(err, unix.ENXIO)
}

// KindOfFile is File or Block. Errors: Invalid for everything else.
func KindOfFile(path string, info fs.FileInfo) (Kind, error) {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return File, nil
	case mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0:
		return Block, nil
	default:
		return "", job.Errorf("open "+path, job.Invalid, "Name a regular file or a block device",
			"%s is neither a file nor a block device", path)
	}
}

func fileKind(f *os.File) (Kind, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	return KindOfFile(f.Name(), info)
}

// Look asks the open target for its size in bytes and whether it can only be read. An export is asked over a connection
// of its own, for at most a minute; null has no size. Errors are as those of Copy.
func (t *Target) Look(ctx context.Context) (size int64, readOnly bool, err error) {
	op := "look at target " + t.name
	switch t.kind {
	case Null:
		return 0, false, nil
	case NBD:
		d, err := t.device(ctx, dialing{deadline: defaultDeadline}, false)
		if err != nil {
			return 0, false, ended(ctx, op, err)
		}
		return d.size, d.readOnly, ended(ctx, op, <-d.close())
	default:
		_, size, err := IdentifyFile(t.file)
		return size, false, fail(op, err)
	}
}

// Classify gives an error of a file, a device or a server its kind, and the next step if one is known. What has a kind
// keeps it; nil stays nil.
func Classify(op string, err error) error { return fail(op, err) }

// SyncFolder makes the names in a folder durable.
func SyncFolder(path string) error { return syncDir(path) }

// Ended is Classify for an operation that ctx bounds: if ctx has ended, its cause gives the kind.
func Ended(ctx context.Context, op string, err error) error { return ended(ctx, op, err) }
