package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/job"
)

// target is the target of one disk: a file, a loop device with its backing file, or an export with the file that its
// server has.
type target struct {
	bench

	dir    string
	device string         // of a device
	server *child.Program // of an export
	log    string         // of its server: each request with its time
	names  [2]string

	mu      sync.Mutex
	path    string // of the file, or the backing file of the device or export; "" while a silent target is not known
	touches []touch
	stash   []byte // older bytes, to restore
	away    string // where the file was moved to; "" if it is in its place
	locked  string // a file that is immutable or read-only
	others  int    // files made beside the target
}

// makeTarget makes a target in a folder of its own, which must lie below the daemon's roots.
func makeTarget(ctx context.Context, dir string, b bench, seed uint64) (*target, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	t := &target{bench: b, dir: dir, path: filepath.Join(dir, "disk.raw")}
	if b.silent {
		t.path = ""
		return t, nil
	}
	if err := t.fill(seed); err != nil {
		return nil, err
	}
	var err error
	switch b.kind {
	case onFile:
		t.names[0] = t.path
	case onDevice:
		if t.device, err = attachLoop(t.path); err != nil {
			return nil, err
		}
		t.names[0] = t.device
	case onExport:
		t.log = filepath.Join(dir, "requests")
		if err := t.serve(ctx); err != nil {
			return nil, err
		}
		t.names[0] = uriOf(t.socket())
	}
	t.names[1] = t.otherName()
	return t, nil
}

// fill makes the file as the bench wants it.
func (t *target) fill(seed uint64) error {
	switch t.before {
	case "nothing":
		return nil
	case "garbage":
		data, _ := content(seed^0xbad, t.size)
		return os.WriteFile(t.path, data, 0o600)
	default:
		if err := os.WriteFile(t.path, nil, 0o600); err != nil {
			return err
		}
		return os.Truncate(t.path, t.size)
	}
}

func (t *target) socket() string { return filepath.Join(t.dir, "x.sock") }

func uriOf(socket string) string { return "nbd+unix:///?socket=" + socket }

// serve starts the server of an export.
func (t *target) serve(ctx context.Context) error {
	t.server = child.NewProgram(t.dir, "nbdkit", "nbdkit", "-f", "-U", t.socket(), "--filter=log", "file", t.path,
		"logfile="+t.log, "logappend=true")
	t.server.Socket = t.socket()
	return t.server.Start(ctx)
}

// otherName makes another name that leads to the same bytes. Where the bench's way is not possible it is a link.
func (t *target) otherName() string {
	at, wrap := t.path, func(path string) string { return path }
	switch t.kind {
	case onDevice:
		at = t.device
	case onExport:
		at, wrap = t.socket(), uriOf
	case onFile:
	}
	other := filepath.Join(t.dir, "other")
	switch t.named {
	case "dots":
		return wrap(filepath.Dir(at) + "/./" + filepath.Base(at))
	case "hardlink":
		if t.kind == onDevice && sameNode(at, other) == nil || t.kind != onDevice && os.Link(at, other) == nil {
			return wrap(other)
		}
	}
	if err := os.Symlink(at, other); err != nil {
		say("%v", err)
	}
	return wrap(other)
}

// sameNode makes a second device node.
func sameNode(device, other string) error {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return err
	}
	return unix.Mknod(other, unix.S_IFBLK|0o600, int(st.Rdev))
}

// learn takes the path of a target that the daemon has chosen.
func (t *target) learn(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.path == "" {
		t.path = name
	}
}

// read reads the bytes that a name leads to, and how many there are. Bytes beyond size are not read.
func (t *target) read(ctx context.Context, name string, size int64) (b []byte, length int64, err error) {
	if strings.Contains(name, "://") {
		copied := filepath.Join(t.dir, "back")
		_ = os.Remove(copied) // there may be none
		//nolint:gosec // our own target
		text, err := exec.CommandContext(ctx, "nbdcopy", name, copied).CombinedOutput()
		if err != nil {
			return nil, 0, fmt.Errorf("read %s back: %w: %s", name, err, text)
		}
		name = copied
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	if st.Mode()&os.ModeDevice != 0 {
		// The kernel may keep bytes of the device that its backing file no longer has.
		if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
			return nil, 0, err
		}
	}
	if length, err = f.Seek(0, io.SeekEnd); err != nil {
		return nil, 0, err
	}
	b = make([]byte, size)
	n, err := f.ReadAt(b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b[:n], length, err
}

// keep keeps the present bytes, so that an act can bring them back later.
func (t *target) keep() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b, err := os.ReadFile(t.path); err == nil && int64(len(b)) == t.size && t.stash == nil {
		t.stash = b
	}
}

// repair brings a file back that was moved away, and makes what was locked writable.
func (t *target) repair() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unlock()
	if _, err := os.Lstat(t.path); t.away != "" && errors.Is(err, os.ErrNotExist) {
		_ = os.Rename(t.away, t.path) // if it fails the next round does, too
	}
	t.away = ""
}

// unlock makes writable what an act has locked. The caller holds mu.
func (t *target) unlock() {
	switch {
	case t.locked == "":
	case t.kind == onDevice:
		_ = setReadOnly(t.device, 0) // it may be gone
	default:
		_ = setImmutable(t.locked, false) // likewise
		_ = os.Chmod(t.locked, 0o600)
	}
	t.locked = ""
}

// remove ends the server, detaches the device and removes all files.
func (t *target) remove() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.unlock()
	endBy(t.server, syscall.SIGKILL)
	if t.device != "" {
		if err := detachLoop(t.device); err != nil && !errors.Is(err, unix.ENXIO) {
			return err
		}
	}
	if t.silent && t.path != "" {
		_ = os.Remove(t.path) // it may be gone
	}
	return os.RemoveAll(t.dir)
}

// place chooses a range of the target: often a small one.
func (t *target) place(r *rand.Rand) job.Extent {
	length := 1 + r.Int64N(64<<10)
	if r.IntN(3) == 0 {
		length = 1 + r.Int64N(16)
	}
	return job.Extent{Offset: r.Int64N(t.size - length), Length: length}
}
