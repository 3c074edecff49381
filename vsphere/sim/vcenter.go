package sim

import (
	"context"
	"crypto/sha1" //nolint:gosec // VMware's disk library knows no other thumbprints
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vmware/govmomi/simulator"

	"github.com/vmferry/vmferry/job"
)

// VCenter is a running rehearsal vCenter. It is safe for concurrent use.
type VCenter struct {
	opt    Options
	log    *slog.Logger
	dir    string
	remove func() error // removes dir, if Start made it
	made   []string     // directories of VMs that Start made, and images; under madeLock once Start has returned

	model  *simulator.Model
	server *simulator.Server
	cert   tls.Certificate

	madeLock sync.Mutex
	machines []*machine
	faults   faults
	logins   atomic.Int64
	closing  chan struct{}
	once     sync.Once
}

// Start makes the VMs from their images and listens. ctx bounds only the start; Close ends the vCenter.
//
// Errors are of kind Invalid (the options), IO, or Unavailable (the address is taken).
func Start(ctx context.Context, opt Options) (_ *VCenter, err error) {
	if err := opt.prepare(); err != nil {
		return nil, err
	}
	const op = "start the rehearsal vCenter"
	v := &VCenter{opt: opt, log: opt.Log, closing: make(chan struct{})}
	if v.dir, v.remove, err = opt.directory(); err != nil {
		return nil, &job.Error{Op: op, Kind: job.IO, Err: err}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.Close())
		}
	}()
	if v.cert, err = newCertificate(opt.Listen); err != nil {
		return nil, &job.Error{Op: op, Kind: job.Invalid, Next: "Listen on HOST:PORT, as in 127.0.0.1:0", Err: err}
	}
	if err := v.build(ctx); err != nil {
		return nil, startError(op, job.IO, err)
	}
	if err := v.listen(ctx); err != nil {
		return nil, startError(op, job.Unavailable, err)
	}
	return v, nil
}

// startError wraps err and keeps its kind if it has one.
func startError(op string, kind job.Kind, err error) error {
	if own, ok := errors.AsType[*job.Error](err); ok {
		return &job.Error{Op: op, Kind: own.Kind, Next: own.Next, Err: err}
	}
	return &job.Error{Op: op, Kind: kind, Err: err}
}

// listen starts the server. The simulator panics if it cannot listen at an address, so the address is tried before.
func (v *VCenter) listen(ctx context.Context) (err error) {
	var lc net.ListenConfig
	try, err := lc.Listen(ctx, "tcp", v.opt.Listen)
	if err != nil {
		return err
	}
	if err := try.Close(); err != nil {
		return err
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("listen on %s: %v", v.opt.Listen, r)
		}
	}()
	svc := v.model.Service
	svc.TLS = &tls.Config{Certificates: []tls.Certificate{v.cert}, MinVersion: tls.VersionTLS12}
	svc.Listen = &url.URL{Host: v.opt.Listen, User: url.UserPassword(v.opt.User, v.opt.Password.Reveal())}
	svc.ServeMux = http.NewServeMux()
	v.model.Map().Handler = v.dispatch
	v.routes(svc.ServeMux)
	v.server = svc.NewServer()
	return nil
}

// routes adds our routes. Their patterns name a method, so they come before the simulator's own.
func (v *VCenter) routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /sdk", v.serveSDK)
	mux.HandleFunc("GET /folder/", v.serveFolder)
	for _, method := range []string{http.MethodPut, http.MethodPost, http.MethodDelete} {
		mux.HandleFunc(method+" /folder/", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "the rehearsal vCenter accepts no files", http.StatusForbidden)
		})
	}
	v.rehearsalRoutes(mux)
}

// Close ends the server and removes the files that Start and snapshots made: copies of images, and overlays. Images
// that were used in place stay, without what the guest wrote to the overlays of snapshots that still exist.
func (v *VCenter) Close() error {
	var err error
	v.once.Do(func() {
		close(v.closing)
		if v.server != nil {
			v.server.CloseClientConnections()
			v.server.Close()
		}
		for _, m := range v.machines {
			m.waitForTasks()
			for _, d := range m.all() {
				err = errors.Join(err, d.close())
			}
		}
		if v.model != nil && v.model.Service != nil {
			v.model.Remove()
		}
		v.madeLock.Lock()
		defer v.madeLock.Unlock()
		for _, dir := range v.made {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		err = errors.Join(err, v.remove())
	})
	return err
}

// URL is the address for vcenter.url. It holds no user and no password.
func (v *VCenter) URL() string {
	u := *v.server.URL
	u.User = nil
	return u.String()
}

// User is the name of the only user.
func (v *VCenter) User() string { return v.opt.User }

// Logins is how many logins with SOAP were tried, refused ones included.
func (v *VCenter) Logins() int { return int(v.logins.Load()) }

// Dir is the directory of the disks' files.
func (v *VCenter) Dir() string { return v.dir }

// Thumbprint is the SHA-256 thumbprint of the certificate.
func (v *VCenter) Thumbprint() string {
	sum := sha256.Sum256(v.cert.Leaf.Raw)
	return thumbprint(sum[:])
}

// ThumbprintSHA1 is the thumbprint in the form that VMware's disk library knows.
func (v *VCenter) ThumbprintSHA1() string {
	sum := sha1.Sum(v.cert.Leaf.Raw) //nolint:gosec // see the import
	return thumbprint(sum[:])
}

func thumbprint(sum []byte) string {
	parts := make([]string, len(sum))
	for i := range sum {
		parts[i] = strings.ToUpper(hex.EncodeToString(sum[i : i+1]))
	}
	return strings.Join(parts, ":")
}

// Certificate is the certificate in PEM form, for vcenter.ca_file.
func (v *VCenter) Certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.cert.Leaf.Raw})
}

// machine finds a VM by its name, path or moref.
func (v *VCenter) machine(name string) (*machine, error) {
	for _, m := range v.machines {
		if m.name == name || m.path == name || m.ref.Value == name {
			return m, nil
		}
	}
	return nil, job.Errorf("find VM "+name, job.NotFound, "", "the rehearsal vCenter has no such VM")
}

func (v *VCenter) disk(vm string, id job.DiskID) (*machine, *disk, error) {
	m, err := v.machine(vm)
	if err != nil {
		return nil, nil, err
	}
	d, err := m.disk(id)
	return m, d, err
}

// disk finds a disk that the VM has.
func (m *machine) disk(id job.DiskID) (*disk, error) {
	for _, d := range m.attached() {
		if d.id == id {
			return d, nil
		}
	}
	return nil, job.Errorf("find disk of VM "+m.name, job.NotFound, "", "the VM has no disk %s", id)
}
