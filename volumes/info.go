package volumes

import (
	"context"
	"fmt"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Info is what can be said about a target without changing it.
type Info struct {
	Kind     nbd.Kind
	Exists   bool  // false: nothing is there; then Kind is what would be made, and the rest is empty
	Size     int64 // bytes; 0 for null
	ReadOnly bool
	Stamp    string // of a regular file: differs after another process has written to it; else ""
	Identity string // names this very target: a file that was deleted and made anew has another
}

// Inspect looks at a target by its name, without a lock, and changes nothing. It waits for an NBD server until ctx
// ends, at most a minute. Errors: Invalid for what is no target, and what the kernel or the server answers.
func Inspect(ctx context.Context, target string) (Info, error) {
	switch {
	case target == "":
		return Info{}, job.Errorf("inspect target", job.Invalid, "", "no target is named")
	case target == nbd.NullName:
		return Info{Kind: nbd.Null, Exists: true, Identity: nbd.NullName}, nil
	case nbd.IsURI(target):
		return inspectExport(ctx, target)
	default:
		info, err := inspectLocal(target)
		return info, nbd.Classify("inspect target "+target, err)
	}
}

// fits refuses a target that can't take a disk of capacity bytes.
func (i Info) fits(target string, capacity int64) error {
	switch {
	case i.Kind == nbd.Null:
		return nil
	case i.ReadOnly:
		return job.Errorf("check target", job.Permission, "Choose a target that can be written", "%s is read-only",
			nbd.Redact(target))
	case i.Size < capacity:
		return job.Errorf("check target", job.Invalid,
			fmt.Sprintf("Make it at least %d bytes large, or name another one", capacity),
			"%s has %d bytes, the disk has %d", nbd.Redact(target), i.Size, capacity)
	}
	return nil
}

// target is the same for the actors. Two names of one target have one place, which is its identity.
func (i Info) target() job.TargetInfo {
	return job.TargetInfo{Exists: i.Exists, Identity: i.Identity, Place: i.Identity, Stamp: i.Stamp}
}
