package vsphere_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
	"github.com/vmferry/vmferry/vsphere/sim"
)

func TestConnectRefusesAWrongConfigurationAndNamesTheNextStep(t *testing.T) {
	v := vcenter(t, sim.Options{})
	for _, tc := range []struct {
		name   string
		change func(*vsphere.Config)
		kind   job.Kind
		words  []string
	}{
		{"wrong password", func(c *vsphere.Config) {
			c.PasswordFile = passwordFile(t, "another", 0o600)
		}, job.Auth, []string{"administrator@vsphere.local", "password in /"}},
		{"wrong user", func(c *vsphere.Config) { c.User = "stranger" }, job.Auth, []string{"stranger"}},
		{"no user", func(c *vsphere.Config) { c.User = "" }, job.Invalid, []string{"vcenter.user"}},
		{"wrong thumbprint", func(c *vsphere.Config) {
			c.Thumbprint = strings.Repeat("AA:", 31) + "AA"
		}, job.Auth, []string{v.Thumbprint(), "vcenter.thumbprint"}},
		{"wrong old thumbprint", func(c *vsphere.Config) {
			c.Thumbprint = strings.Repeat("AA", 20)
		}, job.Auth, []string{v.Thumbprint()}},
		{"no thumbprint at all", func(c *vsphere.Config) { c.Thumbprint = "web" }, job.Invalid, []string{"SHA-256"}},
		{"untrusted certificate", func(c *vsphere.Config) {
			c.Thumbprint = ""
		}, job.Auth, []string{v.Thumbprint(), "vcenter.ca_file"}},
		{"missing authorities", func(c *vsphere.Config) {
			c.Thumbprint, c.CAFile = "", "/nowhere/ca.pem"
		}, job.Invalid, []string{"vcenter.ca_file"}},
		{"password readable by all", func(c *vsphere.Config) {
			c.PasswordFile = passwordFile(t, password, 0o644)
		}, job.Invalid, []string{"chmod 0600 /"}},
		{"password writable by all", func(c *vsphere.Config) {
			c.PasswordFile = passwordFile(t, password, 0o602)
		}, job.Invalid, []string{"chmod 0600 /"}},
		{"password missing", func(c *vsphere.Config) {
			c.PasswordFile = "/nowhere/password"
		}, job.Invalid, []string{"/nowhere/password"}},
		{"password empty", func(c *vsphere.Config) {
			c.PasswordFile = passwordFile(t, "\n", 0o600)
		}, job.Invalid, []string{"empty"}},
		{"password of two lines", func(c *vsphere.Config) {
			c.PasswordFile = passwordFile(t, "a\nb\n", 0o600)
		}, job.Invalid, []string{"more than a password", "line break"}},
		{"no password file", func(c *vsphere.Config) {
			c.PasswordFile = ""
		}, job.Invalid, []string{"vcenter.password_file"}},
		{"a directory for a password", func(c *vsphere.Config) {
			c.PasswordFile = t.TempDir()
		}, job.Invalid, []string{"regular file"}},
		{"no address", func(c *vsphere.Config) { c.URL = "" }, job.Invalid, []string{"vcenter.url"}},
		{"in the clear", func(c *vsphere.Config) {
			c.URL = strings.Replace(c.URL, "https", "http", 1)
		}, job.Invalid, []string{"https"}},
		{"a password in the address", func(c *vsphere.Config) {
			c.URL = "https://root:geheim@127.0.0.1/sdk"
		}, job.Invalid, []string{"vcenter.password_file"}},
		{"no server there", func(c *vsphere.Config) {
			c.URL = "https://127.0.0.1:1/sdk"
		}, job.Unavailable, []string{"127.0.0.1:1"}},
		{"unknown transport", func(c *vsphere.Config) {
			c.Source.Kind = "pigeon"
		}, job.Invalid, []string{"vddk, curl, nbd or auto"}},
		{"vddk without its library", func(c *vsphere.Config) {
			c.Source.Kind = "vddk"
		}, job.Invalid, []string{"source.vddk_libdir"}},
		{"nbd without an address", func(c *vsphere.Config) { c.Source.Kind = "nbd" }, job.Invalid, []string{"nbd://"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t, v)
			tc.change(&cfg)
			c, err := vsphere.Connect(t.Context(), cfg)
			if err == nil {
				must(t, c.Close(t.Context()))
			}
			wantKind(t, err, tc.kind, tc.words...)
			if err != nil && strings.Contains(err.Error(), "geheim") {
				t.Errorf("the password of the address is in %q", err)
			}
		})
	}
}

func TestEveryWayToTrustTheServerWorks(t *testing.T) {
	v := vcenter(t, sim.Options{})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, v.Certificate(), 0o600))
	for _, tc := range []struct {
		name   string
		change func(*vsphere.Config)
	}{
		{"SHA-256", func(*vsphere.Config) {}},
		{"SHA-256 without colons, in small letters", func(c *vsphere.Config) {
			c.Thumbprint = strings.ToLower(strings.ReplaceAll(c.Thumbprint, ":", ""))
		}},
		{"SHA-1", func(c *vsphere.Config) { c.Thumbprint = v.ThumbprintSHA1() }},
		{"authorities", func(c *vsphere.Config) { c.Thumbprint, c.CAFile = "", ca }},
		{"an address without /sdk", func(c *vsphere.Config) { c.URL = strings.TrimSuffix(c.URL, "/sdk") }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t, v)
			tc.change(&cfg)
			inspect(t, connect(t, cfg), "web")
		})
	}
}

func TestAPinnedCertificateIsTheOnlyOneThatIsAccepted(t *testing.T) {
	v := vcenter(t, sim.Options{})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	must(t, os.WriteFile(ca, v.Certificate(), 0o600))
	cfg := config(t, v)
	cfg.CAFile, cfg.Thumbprint = ca, strings.Repeat("AB", 32)
	_, err := vsphere.Connect(t.Context(), cfg)
	wantKind(t, err, job.Auth, v.Thumbprint())
}

func TestErrorsUnwrapToOurs(t *testing.T) {
	v := vcenter(t, sim.Options{})
	c := connect(t, config(t, v))
	_, err := c.Inspect(t.Context(), "nosuch")
	var own *job.Error
	if !errors.As(err, &own) || own.Op != "find VM nosuch" {
		t.Errorf("error %#v", err)
	}
}

func TestClientsThatShareTheirRefusalsTryAWrongPasswordOnce(t *testing.T) {
	v := vcenter(t, sim.Options{})
	cfg := config(t, v)
	cfg.Refusals = &vsphere.Refusals{}
	right := cfg.PasswordFile
	cfg.PasswordFile = passwordFile(t, "another", 0o600)
	for i := range 5 {
		_, err := vsphere.Connect(t.Context(), cfg)
		wantKind(t, err, job.Auth, cfg.PasswordFile)
		if n := v.Logins(); n != 1 {
			t.Errorf("%d logins after %d connects", n, i+1)
		}
	}
	must(t, os.WriteFile(cfg.PasswordFile, []byte("a third one"), 0o600))
	_, err := vsphere.Connect(t.Context(), cfg)
	wantKind(t, err, job.Auth)
	cfg.PasswordFile = right
	inspect(t, connect(t, cfg), "web")
	if n := v.Logins(); n != 3 {
		t.Errorf("%d logins", n)
	}
}
