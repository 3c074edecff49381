package vsphere

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

const useVDDK = "Set source.transport to vddk and source.vddk_libdir to where VMware's VDDK is unpacked"

// exportCurl is for nbdkit's curl plugin on the datastore's HTTPS address. A datastore serves files, not disks, so the
// transport is correct only if one flat file holds all bytes of the frozen disk: curlRules checks that.
func (c *Client) exportCurl(ctx context.Context, op string, vm job.VM, snap job.VMSnapshot,
	d job.Disk,
) (job.Export, error) {
	if err := c.curlRules(ctx, op, vm, snap, d); err != nil {
		return job.Export{}, err
	}
	if err := c.touch(ctx); err != nil { // the certificate is seen and the session alive
		return job.Export{}, err
	}
	host, ca, err := c.curlTrust(op)
	if err != nil {
		return job.Export{}, err
	}
	address, err := c.probe(ctx, op, vm, d, host)
	if err != nil {
		return job.Export{}, err
	}
	cookie, err := c.cookie()
	if err != nil {
		return job.Export{}, err
	}
	out := job.Export{
		Transport: transportCurl, Plugin: "curl", Connections: curlConnections, RequestSize: readSize,
		Filters: []string{"retry"},
		Params: []job.Param{
			{Key: "url", Value: address},
			{Key: "cookie", Secret: cookie, Renewed: true},
			{Key: "protocols", Value: "https"},
			{Key: "followlocation", Value: "false"},
			{Key: "timeout", Value: curlTimeout},
		},
	}
	if ca != "" {
		out.Params = append(out.Params, job.Param{Key: "cainfo", Value: ca})
	}
	return out, nil
}

// curlRules refuses disks whose bytes are not exactly those of one file.
func (c *Client) curlRules(ctx context.Context, op string, vm job.VM, snap job.VMSnapshot, d job.Disk) error {
	refuse := func(why string) error {
		return job.Errorf(op, job.Unsupported, useVDDK, "transport curl cannot read this disk: %s", why)
	}
	all, err := c.snapshots(ctx, op, vm)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(all, func(s treeSnapshot) bool { return s.ref == snap.Ref }) {
		return job.Errorf(op, job.NotFound, "", "snapshot %s no longer exists", snap.Ref)
	}
	for _, s := range all {
		if s.ref != snap.Ref {
			return job.Errorf(op, job.Unsupported,
				"Remove that snapshot in the vCenter if it is no longer needed. Or: "+useVDDK,
				"transport curl cannot read this disk: the VM has another snapshot, %q", s.name)
		}
	}
	devices, err := c.snapshotDevices(ctx, op, snap.Ref)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(devices, func(dev types.BaseVirtualDevice) bool {
		return dev.GetVirtualDevice().Key == d.Key
	})
	if i < 0 {
		return job.Errorf(op, job.NotFound, "", "the snapshot has no such disk")
	}
	if !backingOf(devices[i].GetVirtualDevice().Backing).plain {
		return refuse("it is not a single flat file, or it is encrypted")
	}
	return c.curlDatastore(ctx, op, devices[i], refuse)
}

// curlDatastore refuses datastores that have no flat files.
func (c *Client) curlDatastore(ctx context.Context, op string, dev types.BaseVirtualDevice,
	refuse func(string) error,
) error {
	file, ok := dev.GetVirtualDevice().Backing.(types.BaseVirtualDeviceFileBackingInfo)
	if !ok || file.GetVirtualDeviceFileBackingInfo().Datastore == nil {
		return refuse("its datastore is unknown")
	}
	var m mo.Datastore
	ref := *file.GetVirtualDeviceFileBackingInfo().Datastore
	if err := c.read(ctx, op, ref, &m, func() { m = mo.Datastore{} }, "summary.type"); err != nil {
		return err
	}
	switch strings.ToUpper(m.Summary.Type) {
	case "VMFS", "NFS", "NFS41":
		return nil
	}
	return refuse("datastores of type " + m.Summary.Type + " hold no plain disk files")
}

// curlTrust returns the host name and the file of authorities with which curl accepts the server's certificate. The
// file is "" for the system's authorities.
//
// curl knows no thumbprints. So a pinned certificate is written to a file and made the only authority. curl checks the
// host name too: if the certificate does not hold the configured name, a name from the certificate is used that
// resolves to the same address.
func (c *Client) curlTrust(op string) (host, caFile string, err error) {
	if c.trust.pin == nil {
		return c.url.Host, c.cfg.CAFile, nil
	}
	cert, err := c.certificate()
	if err != nil {
		return "", "", err
	}
	if host, err = c.namedHost(op, cert); err != nil {
		return "", "", err
	}
	caFile, err = c.certificateFile(op, cert)
	return host, caFile, err
}

func (c *Client) namedHost(op string, cert *x509.Certificate) (string, error) {
	if cert.VerifyHostname(c.url.Hostname()) == nil {
		return c.url.Host, nil
	}
	//nolint:noctx // answered by the resolver's cache: we are connected to that host
	ours, err := net.LookupHost(c.url.Hostname())
	if err != nil {
		return "", c.classify(op, err)
	}
	for _, name := range cert.DNSNames {
		theirs, err := net.LookupHost(name) //nolint:noctx // a few names, each bounded by the resolver
		if err != nil || !slices.ContainsFunc(theirs, func(a string) bool { return slices.Contains(ours, a) }) {
			continue
		}
		if c.url.Port() != "" {
			name = net.JoinHostPort(name, c.url.Port())
		}
		return name, nil
	}
	next := "Set vcenter.url to a name in the vCenter's certificate: " + strings.Join(cert.DNSNames, ", ") + ". Or: " +
		useVDDK
	return "", job.Errorf(op, job.Unsupported, next,
		"transport curl checks host names, and the vCenter's certificate is not for %s", c.url.Hostname())
}

// certificateFile writes the certificate to a file that Close removes. A file or folder that others have removed is
// made again.
func (c *Client) certificateFile(op string, cert *x509.Certificate) (string, error) {
	c.dirLock.Lock()
	defer c.dirLock.Unlock()
	fail := func(err error) (string, error) { return "", job.SystemError(op, "", err) }
	if err := c.makeDir(); err != nil {
		return fail(err)
	}
	name := filepath.Join(c.dir, strings.ReplaceAll(sha256Thumbprint(cert), ":", "")+".pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	if have, err := os.ReadFile(name); err == nil && bytes.Equal(have, text) {
		return name, nil
	}
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		return fail(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fail(err)
	}
	return name, nil
}

// makeDir makes the folder of certificates, if it is not there. In a shared folder for temporary files a name that was
// ours once may be another's by now: there the folder gets a new name.
func (c *Client) makeDir() (err error) {
	if c.cfg.RunDir != "" {
		c.dir = filepath.Join(c.cfg.RunDir, "vcenter")
		return os.MkdirAll(c.dir, 0o700)
	}
	if c.dir != "" {
		if _, err := os.Lstat(c.dir); err == nil {
			return nil
		}
	}
	c.dir, err = os.MkdirTemp("", "vmferry-vcenter-")
	return err
}

var errNoFile = errors.New("the datastore does not serve the file")

// probe finds the address at which the datastore serves the disk's file, by reading its first byte.
func (c *Client) probe(ctx context.Context, op string, vm job.VM, d job.Disk, host string) (string, error) {
	addresses, err := fileAddresses(host, vm.Datacenter, d.File)
	if err != nil {
		return "", &job.Error{Op: op, Kind: job.Unsupported, Next: useVDDK, Err: err}
	}
	for _, address := range addresses {
		err = c.do(ctx, op, 0, func(ctx context.Context) error { return c.probeOne(ctx, address, d.Capacity) })
		if !errors.Is(err, errNoFile) {
			return address, err
		}
	}
	return "", &job.Error{Op: op, Kind: job.Unsupported, Next: useVDDK, Err: err}
}

func (c *Client) probeOne(ctx context.Context, address string, capacity int64) error {
	res, err := c.request(ctx, http.MethodGet, address, http.Header{"Range": {"bytes=0-0"}})
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // one byte at most is left in it
	switch res.StatusCode {
	case http.StatusPartialContent:
	case http.StatusUnauthorized:
		return soap.WrapVimFault(&types.NotAuthenticated{})
	case http.StatusForbidden:
		return job.Errorf("", job.Permission,
			"Give the user "+c.cfg.User+" the privileges Datastore.Browse and Datastore.FileManagement",
			"the datastore refuses the file: %s", res.Status)
	case http.StatusNotFound:
		return job.Errorf("", job.Unsupported, useVDDK, "%w: %s", errNoFile, res.Status)
	case http.StatusOK:
		return job.Errorf("", job.Unsupported, useVDDK, "the datastore does not serve parts of files")
	default:
		kind := job.Unavailable
		if res.StatusCode < http.StatusInternalServerError && res.StatusCode != http.StatusTooManyRequests {
			kind = job.Unsupported
		}
		err := job.Errorf("", kind, "", "the datastore answers %s", res.Status)
		switch res.StatusCode {
		case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable,
			http.StatusGatewayTimeout:
			err.Peer = job.PeerVCenter // it restarts, or is busy
		}
		return err
	}
	_, total, _ := strings.Cut(res.Header.Get("Content-Range"), "/")
	if size, err := strconv.ParseInt(total, 10, 64); err != nil || size != capacity {
		return job.Errorf("", job.Unsupported, useVDDK,
			"the datastore's file has %s bytes and the disk %d: its bytes are elsewhere", total, capacity)
	}
	return nil
}

// fileAddresses are the addresses at which a vCenter may serve a disk's flat file, the likely one first. Some vCenters
// want the names in the query percent-encoded twice.
func fileAddresses(host, datacenter, file string) ([]string, error) {
	var path object.DatastorePath
	if !path.FromString(file) || !strings.HasSuffix(path.Path, ".vmdk") {
		return nil, fmt.Errorf("%q is not a disk file on a datastore", file)
	}
	flat := strings.TrimSuffix(path.Path, ".vmdk") + "-flat.vmdk"
	escape := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	var out []string
	for _, encode := range []func(string) string{escape, func(s string) string { return escape(escape(s)) }} {
		u := url.URL{
			Scheme: "https", Host: host, Path: "/folder/" + flat,
			RawQuery: "dcPath=" + encode(datacenter) + "&dsName=" + encode(path.Datastore),
		}
		if !slices.Contains(out, u.String()) {
			out = append(out, u.String())
		}
	}
	return out, nil
}
