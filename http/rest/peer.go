package rest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"strings"

	"github.com/vmferry/vmferry/job"
)

// Access says how a client proves who it is, and how it knows the daemon.
type Access struct {
	TokenFile string // has the token, and nothing else; read for each request. "" for none
	CAFile    string // has the authority of the daemon's certificate; "" for those of the system
}

// NewClientWith is NewClient with a token or an authority of its own. Errors are of kind Invalid; a file that is wrong
// only later fails the requests.
func NewClientWith(address string, a Access) (*Client, error) {
	c, err := NewClient(address)
	if err != nil {
		return nil, err
	}
	if a.CAFile != "" {
		const op = "read the authority of a daemon"
		if !strings.HasPrefix(address, "https:") {
			return nil, job.Errorf(op, job.Invalid, "Write the address with https://",
				"%q is not read over TLS, so an authority is of no use", Clip(address))
		}
		text, err := os.ReadFile(a.CAFile)
		if err != nil {
			return nil, job.Errorf(op, job.Invalid, "Name a file in PEM form", "%w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return nil, job.Errorf(op, job.Invalid, "Name a file in PEM form", "%s has no certificate", a.CAFile)
		}
		if t, ok := c.http.Transport.(*http.Transport); ok {
			t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		}
	}
	if a.TokenFile != "" {
		c.token = func() (job.Secret, error) {
			text, err := os.ReadFile(a.TokenFile)
			if err != nil {
				return job.Secret{}, job.Errorf("read the token", job.Auth,
					"Give the file to the user that runs vmferry", "%w", err)
			}
			return job.SecretFrom(text)
		}
	}
	return c, nil
}

// authorize adds the token to a request.
func (c *Client) authorize(req *http.Request) error {
	if c.token == nil {
		return nil
	}
	t, err := c.token()
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+t.Reveal())
	return nil
}

// CBTStatus is what a daemon's vCenter says of a VM.
type CBTStatus struct {
	Enabled    bool   `json:"enabled"`
	VMName     string `json:"vm_name"`
	PowerState string `json:"power_state"`
	VMPath     string `json:"vm_path"`
}

// CBTStatus asks for a VM, by its path, UUID, moref or unique name. Errors are as those of KnowsVM.
func (c *Client) CBTStatus(ctx context.Context, vm string) (s CBTStatus, err error) {
	_, err = c.do(ctx, http.MethodGet, "/api/v1/vms/"+escapeVM(vm)+"/cbt-status", nil, nil, &s)
	return s, err
}

// KnowsVM says whether the daemon's vCenter has a VM, by its path, UUID, moref or unique name: nil if it has. Errors
// are those of the daemon: NotFound, Conflict if the name leads to several, Unavailable without a vCenter.
func (c *Client) KnowsVM(ctx context.Context, vm string) error {
	_, err := c.CBTStatus(ctx, vm)
	return err
}
