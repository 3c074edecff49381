package vsphere

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/find"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// classify turns err into a job.Error: the op that failed, its kind, and what the operator can do. It is nil for nil.
func (c *Client) classify(op string, err error) error {
	if err == nil {
		return nil
	}
	if own, ok := errors.AsType[*job.Error](err); ok {
		return &job.Error{Op: op, Kind: own.Kind, Next: own.Next, Err: err}
	}
	kind, next, peer := c.kindOf(err)
	return &job.Error{Op: op, Kind: kind, Next: next, Peer: peer, Err: shorten(err)}
}

// kindOf also says what is unavailable: the vCenter, or one of its ESXi hosts. A vCenter that answers with a fault of
// another sort is there.
func (c *Client) kindOf(err error) (kind job.Kind, next string, peer job.Peer) {
	if kind, next, ok := c.kindOfTrust(err); ok {
		return kind, next, ""
	}
	if kind, next, peer, ok := c.kindOfFault(err); ok {
		return kind, next, peer
	}
	kind, next = kindOfConnection(err)
	if kind == job.Unavailable || kind == job.Timeout {
		peer = job.PeerVCenter
	}
	return kind, next, peer
}

func (c *Client) kindOfTrust(err error) (job.Kind, string, bool) {
	if pin, ok := errors.AsType[*thumbprintError](err); ok {
		return job.Auth, "Set vcenter.thumbprint to " + sha256Thumbprint(pin.got) +
			", but only if the vCenter's certificate was renewed", true
	}
	cert, ok := errors.AsType[*tls.CertificateVerificationError](err)
	if !ok {
		return "", "", false
	}
	next := "Set vcenter.ca_file to the authority that signed the vCenter's certificate"
	if len(cert.UnverifiedCertificates) > 0 {
		next += ", or, if this is its thumbprint, vcenter.thumbprint to " +
			sha256Thumbprint(cert.UnverifiedCertificates[0])
	}
	return job.Auth, next, true
}

// faultKind is a row of the table of faults: each of these faults means this kind.
type faultKind struct {
	kind   job.Kind
	next   string
	faults []types.BaseMethodFault
	peer   job.Peer // that is unavailable; "" for none
}

// faultKinds is the table of faults. The first row that matches counts.
func (c *Client) faultKinds() []faultKind {
	type faults = []types.BaseMethodFault
	return []faultKind{
		{
			job.Auth, "Check the user " + c.cfg.User + " and the password in " + c.cfg.PasswordFile,
			faults{&types.InvalidLogin{}},
			"",
		},
		{job.Auth, "Log in again: the vCenter ended the session", faults{&types.NotAuthenticated{}}, ""},
		{
			job.Permission, "Give the user " + c.cfg.User + " this privilege in the vCenter",
			faults{&types.NoPermission{}, &types.RestrictedVersion{}},
			"",
		},
		{job.NotFound, "", faults{&types.ManagedObjectNotFound{}, &types.NotFound{}, &types.FileNotFound{}}, ""},
		{
			job.Unavailable, "Wait: vmferry tries again when the other task on this VM has ended",
			faults{&types.TaskInProgress{}, &types.ConcurrentAccess{}, &types.ResourceInUse{}},
			job.PeerVCenter,
		},
		{job.Unavailable, "", faults{
			&types.HostCommunication{}, &types.HostNotConnected{}, &types.HostNotReachable{},
			&types.Timedout{}, &types.NoActiveHostInCluster{}, &types.TooManyHosts{},
		}, job.PeerHost},
		{job.Unavailable, "", faults{&types.RequestCanceled{}}, ""},
		{
			job.NoSpace, "Make room on the VM's datastore: a snapshot needs some",
			faults{&types.NoDiskSpace{}, &types.InsufficientStorageSpace{}},
			"",
		},
		{job.IO, "", faults{&types.FileLocked{}, &types.FileFault{}}, ""},
		{job.Unsupported, "", faults{
			&types.NotSupported{}, &types.MethodNotFound{}, &types.NotImplemented{},
			&types.SnapshotDisabled{}, &types.MultipleSnapshotsNotSupported{},
		}, ""},
		{job.Conflict, "", faults{&types.InvalidPowerState{}, &types.InvalidState{}, &types.MethodDisabled{}}, ""},
		{job.Invalid, "", faults{&types.InvalidArgument{}, &types.InvalidName{}}, ""},
		{job.Unavailable, "", faults{&types.SnapshotFault{}, &types.SystemError{}}, ""},
	}
}

func (c *Client) kindOfFault(err error) (job.Kind, string, job.Peer, bool) {
	if _, ok := errors.AsType[*find.NotFoundError](err); ok {
		return job.NotFound, "", "", true
	}
	for _, row := range c.faultKinds() {
		for _, f := range row.faults {
			if fault.Is(err, f) {
				return row.kind, row.next, row.peer, true
			}
		}
	}
	// A fault that the table does not list: the server is reachable and may answer differently later.
	if soap.IsSoapFault(err) || soap.IsVimFault(err) {
		return job.Unavailable, "", "", true
	}
	var task types.HasLocalizedMethodFault
	if errors.As(err, &task) {
		return job.Unavailable, "", "", true
	}
	return "", "", "", false
}

func kindOfConnection(err error) (job.Kind, string) {
	var netErr net.Error
	var dns *net.DNSError
	switch {
	case errors.Is(err, context.Canceled):
		return job.Cancelled, ""
	case errors.Is(err, context.DeadlineExceeded):
		return job.Timeout, ""
	case errors.As(err, &dns) && dns.IsNotFound:
		return job.Unavailable, "Check the host name in vcenter.url"
	case errors.As(err, &netErr) && netErr.Timeout():
		return job.Timeout, ""
	case errors.As(err, &netErr), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return job.Unavailable, "" // also for an HTTP status other than 200
	default:
		return job.Internal, ""
	}
}

// shorten leaves only the message of a SOAP fault: the rest of its text repeats the URL of the call.
func shorten(err error) error {
	if soap.IsSoapFault(err) {
		if text := soap.ToSoapFault(err).String; text != "" {
			return &shortError{text, err}
		}
	}
	return err
}

type shortError struct {
	text string
	err  error
}

func (e *shortError) Error() string { return e.text }
func (e *shortError) Unwrap() error { return e.err }

func isAny(err error, faults ...types.BaseMethodFault) bool {
	for _, f := range faults {
		if fault.Is(err, f) {
			return true
		}
	}
	return false
}
