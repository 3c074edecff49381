package vsphere

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/vmware/govmomi/session"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// login keeps callers from logging in all at once. A caller whose session has ended names the generation of that
// session, and only the first caller for a generation logs in.
type login struct {
	lock       chan struct{} // full while it is held; waiting for it can be cancelled
	generation atomic.Uint64 // counts the sessions
}

// Refusals remembers the password that a vCenter refused last. Repeating it could lock the account. The zero value
// knows of none. Its methods may be called from many goroutines.
type Refusals struct {
	mu      sync.Mutex
	refused job.Secret
	cause   error // what the vCenter said
}

func (r *Refusals) set(password job.Secret, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refused, r.cause = password, cause
}

// check returns an error if the vCenter has refused this password.
func (r *Refusals) check(cfg *Config, password job.Secret) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused.Empty() || password != r.refused {
		return nil
	}
	return job.Errorf("", job.Auth, "Check the user "+cfg.User+" and the password in "+cfg.PasswordFile+
		". A changed file is tried at once; if the account was changed instead, start the daemon again",
		"the vCenter refused this password before, and it has not changed: %w", shorten(r.cause))
}

func newLogin() login { return login{lock: make(chan struct{}, 1)} }

func (c *Client) logInAgain(ctx context.Context, seen uint64) error {
	select {
	case c.login.lock <- struct{}{}:
		defer func() { <-c.login.lock }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if c.login.generation.Load() != seen {
		return nil // another caller has logged in meanwhile
	}
	call, done := context.WithTimeout(ctx, callTimeout)
	defer done()
	if err := c.logIn(call); err != nil {
		// A vCenter that starts refuses logins in many ways until its services run.
		return job.At(job.PeerVCenter, c.classify("log in to vCenter "+c.url.Host+" again", err))
	}
	c.log.Info("logged in to the vCenter again", "vcenter", c.url.Host)
	return nil
}

// logIn starts a new session. The caller holds the lock, or the client is not yet shared.
func (c *Client) logIn(ctx context.Context) error {
	password, err := c.cfg.password()
	if err != nil {
		return err
	}
	if err := c.cfg.Refusals.check(&c.cfg, password); err != nil {
		return err
	}
	_, err = methods.Login(ctx, c.vim, &types.Login{
		This: *c.vim.ServiceContent.SessionManager, UserName: c.cfg.User, Password: password.Reveal(),
		Locale: session.Locale,
	})
	if isAny(err, &types.InvalidLogin{}) {
		// A vCenter also answers so if the session is still alive, as after a single call that was refused.
		if alive, aerr := session.NewManager(c.vim).UserSession(ctx); aerr == nil && alive != nil {
			err = nil
		} else {
			c.cfg.Refusals.set(password, err)
		}
	}
	if err != nil {
		return err
	}
	c.cfg.Refusals.set(job.Secret{}, nil)
	c.login.generation.Add(1)
	return nil
}

func (c *Client) logOut(ctx context.Context) error {
	_, err := methods.Logout(ctx, c.vim, &types.Logout{This: *c.vim.ServiceContent.SessionManager})
	if isAny(err, &types.NotAuthenticated{}) {
		return nil
	}
	return err
}

// touch makes sure that the session is alive.
func (c *Client) touch(ctx context.Context) error {
	return c.do(ctx, "use the vCenter session", 0, func(ctx context.Context) error {
		_, err := methods.GetCurrentTime(ctx, c.vim)
		return err
	})
}

// Probe makes the cheapest call that needs a session, and logs in again if the session has ended.
func (c *Client) Probe(ctx context.Context) error { return c.touch(ctx) }

// SessionCookie is the newest cookie of the session as name=value, for a program that reads a disk over HTTPS. The
// session is alive when it returns.
func (c *Client) SessionCookie(ctx context.Context) (job.Secret, error) {
	if err := c.touch(ctx); err != nil {
		return job.Secret{}, err
	}
	return c.cookie()
}

func (c *Client) cookie() (job.Secret, error) {
	root := *c.url
	root.Path = "/"
	for _, address := range []string{c.url.String(), root.String()} {
		u, err := c.url.Parse(address)
		if err != nil {
			continue
		}
		for _, k := range c.vim.Jar.Cookies(u) {
			if k.Name == soap.SessionCookieName {
				return job.NewSecret(k.String()), nil // a jar gives no more than name and value
			}
		}
	}
	return job.Secret{}, job.Errorf("find the session's cookie", job.Internal, "", "the vCenter has set no cookie")
}
