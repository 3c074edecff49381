package vsphere

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/vmware/govmomi/property"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// Client is a session with one vCenter. All methods but Close are safe for concurrent use. The client logs in again
// when the vCenter has ended the session.
type Client struct {
	cfg   Config
	url   *url.URL // without user
	vim   *vim25.Client
	trust *trust
	log   *slog.Logger
	login login
	pulse pulse

	dir     string // directory of the certificate files for programs that read a disk; "" until one is needed
	dirLock sync.Mutex

	stop    context.CancelFunc
	stopped chan struct{} // closed when the keep-alive has ended
}

// Connect logs in and keeps the session alive until Close. The session does not depend on ctx once Connect returned.
//
// Errors are of kind Invalid (the configuration or the password file), Auth (refused, or a certificate that is not
// trusted: see Untrusted), Unavailable or Timeout. A password that the vCenter has refused is not sent again until the
// content of its file changes.
func Connect(ctx context.Context, cfg Config) (*Client, error) {
	u, err := cfg.prepare()
	if err != nil {
		return nil, err
	}
	password, err := cfg.password() // before anything is sent
	if err == nil {
		err = cfg.Refusals.check(&cfg, password)
	}
	if err != nil {
		return nil, err
	}
	trust, err := newTrust(cfg.Thumbprint)
	if err != nil {
		return nil, err
	}
	sc := soap.NewClient(u, false)
	transport := sc.DefaultTransport()
	if transport.TLSClientConfig, err = trust.config(cfg.CAFile); err != nil {
		return nil, err
	}
	// govmomi's own function dials without a context and checks a thumbprint only after the normal check has failed
	transport.DialTLSContext = nil
	sc.UserAgent = "vmferry"

	c := &Client{cfg: cfg, url: u, trust: trust, log: cfg.Log, login: newLogin(), stopped: make(chan struct{})}
	call, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	noted := job.Calling(ctx, job.PeerVCenter)
	if c.vim, err = vim25.NewClient(call, sc); err != nil {
		return nil, noted.Done(c.classify("connect to vCenter "+u.Host, err))
	}
	if err := noted.Done(c.logIn(call)); err != nil {
		return nil, job.At(job.PeerVCenter, c.classify("log in to vCenter "+u.Host+" as "+cfg.User, err))
	}
	c.startKeepAlive(ctx)
	return c, nil
}

// Close logs out. The caller ends all other calls first. Exports with the transport curl cannot be read afterwards.
func (c *Client) Close(ctx context.Context) error {
	c.stop()
	<-c.stopped
	call, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	err := c.logOut(call)
	c.vim.CloseIdleConnections()
	c.dirLock.Lock()
	defer c.dirLock.Unlock()
	if c.dir != "" {
		if rerr := os.RemoveAll(c.dir); rerr != nil && err == nil {
			err = rerr
		}
	}
	return c.classify("log out of vCenter "+c.url.Host, err)
}

// Name is the vCenter's host name, as configured.
func (c *Client) Name() string { return c.url.Hostname() }

// startKeepAlive uses the session every cfg.KeepAlive, so that neither the session nor its cookies expire. A failure is
// only logged: the next call of a method reports it.
func (c *Client) startKeepAlive(ctx context.Context) {
	ctx, c.stop = context.WithCancel(context.WithoutCancel(ctx))
	if c.cfg.KeepAlive < 0 {
		close(c.stopped)
		return
	}
	go func() {
		defer close(c.stopped)
		tick := time.NewTicker(c.cfg.KeepAlive)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if err := c.touch(ctx); err != nil && ctx.Err() == nil {
					c.log.Debug("vCenter session could not be kept alive", "vcenter", c.url.Host, "err", err)
				}
			}
		}
	}()
}

// do runs f. If the session has ended it logs in again and runs f once more. Each run gets timeout; 0 means
// callTimeout.
func (c *Client) do(ctx context.Context, op string, timeout time.Duration, f func(context.Context) error) (err error) {
	if timeout == 0 {
		timeout = callTimeout
	}
	done := c.calling(ctx)
	defer func() { done(err) }()
	run := func() error {
		call, done := context.WithTimeout(ctx, timeout)
		defer done()
		return f(call)
	}
	seen := c.login.generation.Load()
	err = run()
	if !isAny(err, &types.NotAuthenticated{}) {
		return c.classify(op, err)
	}
	if err := c.logInAgain(ctx, seen); err != nil {
		return c.classify(op, err)
	}
	return c.classify(op, run())
}

// read gets properties of one object into dst, a pointer to one of govmomi's mo types. reset zeroes it before each try.
func (c *Client) read(ctx context.Context, op string, ref types.ManagedObjectReference, dst any, reset func(),
	props ...string,
) error {
	return c.do(ctx, op, 0, func(ctx context.Context) error {
		reset()
		return property.DefaultCollector(c.vim).RetrieveOne(ctx, ref, props, dst)
	})
}

// request sends an HTTP request with the session's cookie over the verified connection. The caller closes the answer's
// body.
func (c *Client) request(ctx context.Context, method, address string, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	req.Header = header
	return c.vim.Client.Client.Do(req)
}

// certificate is the server's certificate as it was verified last.
func (c *Client) certificate() (*x509.Certificate, error) {
	cert := c.trust.leaf.Load()
	if cert == nil {
		return nil, job.Errorf("find the vCenter's certificate", job.Internal, "", "no connection has been made")
	}
	return cert, nil
}
