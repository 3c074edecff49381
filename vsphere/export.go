package vsphere

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/vmferry/vmferry/job"
)

// Export says where the frozen bytes of a disk can be read with the configured transport. It starts nothing.
// Certificate files in the export are valid until the client is closed. Cookies are valid until the session ends:
// SessionCookie returns the newest one. Auto means vddk if its library is configured, else curl.
//
// Errors are of kind Unsupported if the transport cannot read this disk (Next names another way, if there is one);
// NotFound, Auth, Permission, Unavailable, Timeout.
func (c *Client) Export(ctx context.Context, vm job.VM, snap job.VMSnapshot, disk job.DiskID) (job.Export, error) {
	op := fmt.Sprintf("find a way to read %s of %s", disk, vm.Name)
	d, ok := snap.Disk(disk)
	if !ok {
		return job.Export{}, job.Errorf(op, job.NotFound, "", "the snapshot has no such disk")
	}
	if d.Unfit != "" {
		return job.Export{}, job.Errorf(op, job.Unsupported, "Leave this disk out", "it cannot be copied: %s", d.Unfit)
	}
	switch c.cfg.Source.effectiveKind() {
	case transportVDDK:
		return c.exportVDDK(op, vm, snap, d)
	case transportNBD:
		return c.exportNBD(vm, snap, d), nil
	default:
		return c.exportCurl(ctx, op, vm, snap, d)
	}
}

// exportNBD fills in the template. The values are escaped so that none can change the URI's shape.
func (c *Client) exportNBD(vm job.VM, snap job.VMSnapshot, d job.Disk) job.Export {
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	fill := strings.NewReplacer("{vm}", escape(vm.Name), "{disk}", escape(string(d.ID)), "{snapshot}", escape(snap.Ref))
	return job.Export{Transport: transportNBD, URI: fill.Replace(c.cfg.Source.NBDURI)}
}

// exportVDDK is for nbdkit's plugin around VMware's library. Each disk gets one connection, because several connections
// to the same file compete in the host. The filters split requests that are too large, cache extents, and retry.
func (c *Client) exportVDDK(op string, vm job.VM, snap job.VMSnapshot, d job.Disk) (job.Export, error) {
	password, err := c.cfg.password()
	if err != nil {
		return job.Export{}, c.classify(op, err)
	}
	cert, err := c.certificate()
	if err != nil {
		return job.Export{}, err
	}
	src := c.cfg.Source
	out := job.Export{
		Transport: transportVDDK, Plugin: src.VDDKPlugin, Connections: vddkConnections, RequestSize: readSize,
		Filters: []string{"cacheextents", "blocksize", "retry"}, // the last is nearest to the plugin
	}
	if out.Plugin == "" {
		out.Plugin = "vddk"
	}
	add := func(key, value string) {
		if value != "" {
			out.Params = append(out.Params, job.Param{Key: key, Value: value})
		}
	}
	add("libdir", src.VDDKLibDir)
	add("config", src.VDDKConfig)
	add("server", c.url.Hostname())
	if port := c.url.Port(); port != httpsPort {
		add("port", port)
	}
	add("user", c.cfg.User)
	out.Params = append(out.Params, job.Param{Key: "password", Secret: password})
	add("thumbprint", sha1Thumbprint(cert))
	add("vm", "moref="+vm.Ref)
	add("snapshot", snap.Ref)
	add("transports", "nbdssl:nbd")
	add("compression", "fastlz")
	add("maxdata", "2M")
	add("minblock", "512")
	add("file", d.File) // the frozen file, not the one that the VM writes to now
	return out, nil
}
