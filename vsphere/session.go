package vsphere

import (
	"context"
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
	// the password that the vCenter refused last: repeating it could lock the account; under lock
	refused job.Secret
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
	if !c.login.refused.Empty() && password == c.login.refused {
		return job.Errorf("", job.Auth, "Check the user "+c.cfg.User+" and the password in "+c.cfg.PasswordFile,
			"the vCenter refused this password before, and it has not changed")
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
			c.login.refused = password
		}
	}
	if err != nil {
		return err
	}
	c.login.refused = job.Secret{}
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
