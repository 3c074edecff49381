package volumes

import (
	"context"
	"fmt"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// inspectExport asks a server over a connection of its own.
func inspectExport(ctx context.Context, uri string) (Info, error) {
	target, err := nbd.ExportTarget(uri, false)
	if err != nil {
		return Info{}, err
	}
	size, readOnly, err := target.Look(ctx)
	if err != nil {
		return Info{}, err
	}
	return Info{Kind: nbd.NBD, Exists: true, Size: size, ReadOnly: readOnly, Identity: identityOf(target, size)}, nil
}

// identityOf names an export: there is nothing to ask it but its size.
func identityOf(t *nbd.Target, size int64) string { return fmt.Sprintf("%s size=%d", t.Name(), size) }

// purgeExport: an export is not ours to remove.
func purgeExport(uri string) error {
	return job.Errorf("remove target", job.Conflict, "Look what it is, and remove it by hand",
		"%s is no file", nbd.Redact(uri))
}
