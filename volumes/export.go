package volumes

import (
	"context"
	"strconv"

	"github.com/vmferry/vmferry/nbd"
)

// inspectExport asks a server over a connection of its own.
func inspectExport(ctx context.Context, uri string, tls nbd.TLS) (Info, error) {
	target, err := nbd.ExportTarget(uri, tls)
	if err != nil {
		return Info{}, err
	}
	return exportInfo(ctx, target, uri)
}

func exportInfo(ctx context.Context, target *nbd.Target, uri string) (Info, error) {
	size, readOnly, err := target.Look(ctx)
	if err != nil {
		return Info{}, err
	}
	id := identity{kind: nbd.NBD, uri: canonical(uri), size: strconv.FormatInt(size, 10)}
	return Info{Kind: nbd.NBD, Exists: true, Size: size, ReadOnly: readOnly, Identity: id.String(), id: id}, nil
}
