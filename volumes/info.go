package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Info is what can be said about a target without changing it.
type Info struct {
	Kind     nbd.Kind
	Exists   bool  // false: nothing is there; then Kind is what would be made, and the rest is empty
	Size     int64 // bytes; 0 for null
	ReadOnly bool
	Stamp    string // differs after any write; "" if that can't be told
	Identity string // names this very volume, wherever it is; "" for what does not exist
	Marked   bool   // a file with vmferry's mark

	id identity
}

// Inspect looks at a target by its name, without a lock, and changes nothing. It waits for an NBD server until ctx
// ends, at most a minute. Errors: Permission for what is not allowed, Invalid for what is no target, and what the
// kernel or the server answers. Only what the kernel says is not there is said not to exist.
func (a Allow) Inspect(ctx context.Context, target string) (Info, error) {
	where, err := a.locate(target)
	if err != nil {
		return Info{}, err
	}
	if nbd.IsURI(target) {
		return inspectExport(ctx, target, a.TLS)
	}
	info, err := inspectLocal(where)
	return info, nbd.Classify("inspect target "+target, err)
}

// inspectLocal looks at a file or device.
func inspectLocal(where spot) (Info, error) {
	stat, err := os.Stat(where.path)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{Kind: nbd.File}, nil
	}
	if err != nil {
		return Info{}, err
	}
	if _, err := nbd.KindOfFile(where.path, stat); err != nil { // before it is opened: a FIFO could block for ever
		return Info{}, err
	}
	f, err := where.open(os.O_RDONLY, 0)
	if err != nil {
		return Info{}, err
	}
	info, err := infoOf(f)
	info.ReadOnly = syscall.Access(where.path, unix.W_OK) != nil
	return info, errors.Join(err, f.Close())
}

// infoOf asks an open file or device.
func infoOf(f *os.File) (Info, error) {
	kind, err := kindOf(f)
	if err != nil {
		return Info{}, err
	}
	info := Info{Kind: kind, Exists: true}
	if info.id, err = identify(f, kind); err != nil {
		return Info{}, err
	}
	if info.Size, err = f.Seek(0, 2); err != nil {
		return Info{}, err
	}
	info.Identity, info.Marked = info.id.String(), info.id.mark != ""
	info.Stamp, err = stampOf(f, kind)
	return info, err
}

// is says whether the target is the volume of a stored identity. target is its name.
func (i Info) is(identity, target string) bool {
	return parseIdentity(identity).same(i.id, absolute(target))
}

// fits refuses a target that can't take a disk of capacity bytes. grows says that the target is made as large as it
// must be.
func (i Info) fits(target string, capacity int64, grows bool) error {
	switch {
	case i.Kind == nbd.Null || !i.Exists:
		return nil
	case i.ReadOnly:
		return job.Errorf("check target", job.Permission, "Choose a target that can be written", "%s is read-only",
			nbd.Redact(target))
	case i.Size < capacity && !grows:
		return job.Errorf("check target", job.Invalid,
			fmt.Sprintf("Make it at least %d bytes large, or name another one", capacity),
			"%s has %d bytes, the disk has %d", nbd.Redact(target), i.Size, capacity)
	}
	return nil
}
