package browser_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/web/browser"
)

// secured is the part of a configuration by which a daemon also serves over TLS.
func secured(tb testing.TB) string {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:  []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	dir := tb.TempDir()
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return "tls: {listen: 'localhost:0', cert_file: " + filepath.Join(dir, "cert.pem") + ", key_file: " +
		filepath.Join(dir, "key.pem") + "}\n"
}

// login logs in with a token of a new name, over TLS.
func login(tb testing.TB, d *browser.Daemon, role job.Role) (p *page, token string) {
	tb.Helper()
	made, err := d.Client.CreateToken(tb.Context(), rest.TokenRequest{Name: "token-" + string(role), Role: role})
	if err != nil {
		tb.Fatal(err)
	}
	p = open(tb, d.SecureURL, "/")
	p.until(browser.At("button", "Log in"))
	for _, scheme := range schemes {
		p.must(p.Scheme(scheme))
		p.accessible("login " + scheme)
		p.picture("login-" + scheme)
	}
	p.fill("Token", "vmf_wrong")
	p.click("button", "Log in")
	p.until("document.querySelector('[role=alert]')?.textContent.length > 10")
	p.Troubles() // the browser tells of the answers 401
	p.fill("Token", made.Text)
	p.click("button", "Log in")
	p.linkIs("Live")
	p.shows("token-" + string(role))
	if strings.Contains(value[string](p, "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])"),
		made.Text[8:]) {
		tb.Error("a script can read the token")
	}
	return p, made.Text
}

func TestEachRoleSeesWhatItMayDo(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d := rehearsed(t, secured(t), browser.VM{Name: "web", Disks: []int64{128 * mib}})
	id := submit(t, d, "web", limited(mib)).JobID
	for role, may := range map[job.Role][]string{
		job.Viewer: {}, job.Operator: {"Pause", "Cancel"}, job.Admin: {"Pause", "Cancel"},
	} {
		p, _ := login(t, d, role)
		p.until(barOf("Progress of web") + " >= 0")
		for name, want := range map[string]bool{"New": len(may) > 0, "Volumes": true, "System": true} {
			if got := value[bool](p, "!!("+browser.At("link", name)+")"); got != want {
				t.Errorf("%s: a link to %s: %v", role, name, got)
			}
		}
		p.to("/jobs/" + string(id))
		p.shows("disk-2000")
		for _, verb := range []string{"Cancel"} {
			if got, want := value[bool](p, "!!("+browser.At("button", verb)+")"), len(may) > 0; got != want {
				t.Errorf("%s: a button %s: %v", role, verb, got)
			}
		}
		p.accessible("job of a " + string(role))
		p.to("/system")
		p.shows("Limits of this node")
		if got := value[bool](p, "!!("+browser.At("region", "Tokens")+")"); got != (role == job.Admin) {
			t.Errorf("%s: tokens: %v", role, got)
		}
		p.accessible("system of a " + string(role))
		if len(may) > 0 {
			p.to("/jobs/" + string(id))
			verb := map[job.Status]string{job.Running: "Pause", job.Paused: "Resume"}[jobOf(t, d, id).Status]
			p.click("button", verb)
			p.until("document.querySelector('[role=dialog]')")
			p.click("button", verb)
			want := map[string]string{"Pause": "paused", "Resume": "running"}[verb]
			eventually(t, want, func() bool { return string(jobOf(t, d, id).Status) == want })
		}
		p.quiet()
		other := p.beside("/")
		other.linkIs("Live")
		p.click("button", "Log out")
		p.until("location.pathname === '/login'")
		p.until(browser.At("button", "Log in"))
		other.until(browser.At("button", "Log in")) // the session is that of all tabs
		other.linkIs("Logged out")
		p.to("/jobs/" + string(id))
		p.until(browser.At("button", "Log in"))
		if value[bool](p, "document.body.innerText.includes('disk-2000')") {
			t.Errorf("%s: the job is shown after the logout", role)
		}
	}
}

func TestATokenThatIsRevokedEndsTheSessionOfThePage(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d := rehearsed(t, secured(t), browser.VM{Name: "web", Disks: []int64{128 * mib}})
	submit(t, d, "web", limited(mib))
	p, text := login(t, d, job.Operator)
	p.moves("Progress of web")
	list, err := d.Client.Tokens(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	if err := d.Client.RevokeToken(t.Context(), list[0].ID); err != nil {
		t.Fatal(err)
	}
	p.until(browser.At("button", "Log in"))
	p.linkIs("Logged out")
	p.fill("Token", text)
	p.click("button", "Log in")
	p.shows("the token is not known here, or was revoked")
	second := int64(1)
	short, err := d.Client.CreateToken(t.Context(), rest.TokenRequest{
		Name: "short", Role: job.Viewer, ExpiresInSeconds: &second,
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "it has expired", func() bool { return time.Now().After(short.ExpiresAt.Add(time.Second)) })
	p.fill("Token", short.Text)
	p.click("button", "Log in")
	p.shows("the token short expired at")
}

func TestAnAdminMakesATokenOnThePage(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	d := daemon(t, secured(t))
	p, _ := login(t, d, job.Admin)
	p.to("/system")
	p.fill("Name", "grafana")
	p.click("button", "Make a token")
	p.shows("The token, shown only now")
	p.accessible("a new token")
	list, err := d.Client.Tokens(t.Context())
	if err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	p.click("button", "Revoke grafana")
	eventually(t, "revoked", func() bool {
		list, err := d.Client.Tokens(t.Context())
		return err == nil && len(list) == 1
	})
	p.quiet()
}
