package nbd_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(tb testing.TB, name string) authority {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-48 * time.Hour),
		NotAfter: now.Add(48 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(tb, err)
	cert, err := x509.ParseCertificate(der)
	check(tb, err)
	return authority{cert, key}
}

// folder has certificates as servers and clients want them, named role-cert.pem: for localhost and 127.0.0.1, or for
// another host, and valid until then.
func (a authority) folder(tb testing.TB, role, host string, until time.Time) string {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(tb, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: time.Now().Add(-24 * time.Hour),
		NotAfter: until, KeyUsage: x509.KeyUsageDigitalSignature, DNSNames: []string{host},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if host == "localhost" {
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	check(tb, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	check(tb, err)
	dir := tb.TempDir()
	write := func(name, kind string, der []byte) {
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		check(tb, os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
	write("ca-cert.pem", "CERTIFICATE", a.cert.Raw)
	write(role+"-cert.pem", "CERTIFICATE", der)
	write(role+"-key.pem", "PRIVATE KEY", private)
	return dir
}

func (a authority) server(tb testing.TB) string {
	tb.Helper()
	return a.folder(tb, "server", "localhost", time.Now().Add(time.Hour))
}

// trust is a folder with nothing but the authority's certificate.
func (a authority) trust(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	check(tb, os.WriteFile(filepath.Join(dir, "ca-cert.pem"), text, 0o600))
	return dir
}

// keyFile is a file with TLS keys.
func keyFile(tb testing.TB, lines ...string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "keys.psk") // the name that QEMU wants
	check(tb, os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600))
	return path
}

// freePort was free a moment ago.
func freePort(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(tb, err)
	_, port, err := net.SplitHostPort(l.Addr().String())
	check(tb, err)
	check(tb, l.Close())
	return port
}

// tlsKit serves a disk by nbdkit over TCP, and returns host and port of it.
func tlsKit(tb testing.TB, file string, options ...string) string {
	tb.Helper()
	need(tb, "nbdkit")
	pid, port := filepath.Join(shortDir(tb), "pid"), freePort(tb)
	args := append([]string{"-f", "--exit-with-parent", "-p", port, "-i", "127.0.0.1", "-P", pid}, options...)
	serve(tb, "", pid, "nbdkit", append(args, "file", file)...)
	return "localhost:" + port
}

// tlsQEMU is the same by qemu-nbd.
func tlsQEMU(tb testing.TB, file, object string) string {
	tb.Helper()
	need(tb, "qemu-nbd")
	pid, port := filepath.Join(shortDir(tb), "pid"), freePort(tb)
	serve(tb, "", pid, "qemu-nbd", "-f", "raw", "-t", "-p", port, "-b", "127.0.0.1", "--pid-file", pid,
		"--object", object+",id=tls0", "--tls-creds", "tls0", file)
	return "localhost:" + port
}

const psk = "5f4dcc3b5aa765d61d8327deb882cf995f4dcc3b5aa765d61d8327deb882cf99"

func TestOnlyAVerifiedServerIsReadFromAndWrittenTo(t *testing.T) {
	ours, theirs := newAuthority(t, "Ours"), newAuthority(t, "Theirs")
	want := disk(mib, mixed)
	disk := image(t, want)
	withCerts := func(dir string) []string { return []string{"--tls=require", "--tls-certificates=" + dir} }
	good := tlsKit(t, disk, withCerts(ours.server(t))...)
	elsewhere := tlsKit(t, disk, withCerts(ours.folder(t, "server", "elsewhere.example", time.Now().Add(time.Hour)))...)
	expired := tlsKit(t, disk, withCerts(ours.folder(t, "server", "localhost", time.Now().Add(-time.Hour)))...)
	asks := tlsKit(t, disk, append(withCerts(ours.server(t)), "--tls-verify-peer")...)
	plain := tlsKit(t, disk)
	byQEMUKey := tlsQEMU(t, disk, "tls-creds-psk,endpoint=server,dir="+filepath.Dir(keyFile(t, "alice:"+psk)))
	keyed := tlsKit(t, disk, "--tls=require", "--tls-psk="+keyFile(t, "alice:"+psk, "bob:"+strings.Repeat("1", 64)))
	byQEMU := tlsQEMU(t, disk, "tls-creds-x509,endpoint=server,verify-peer=no,dir="+ours.server(t))
	trust := nbd.TLS{Certificates: ours.trust(t)}
	client := nbd.TLS{Certificates: ours.folder(t, "client", "alice", time.Now().Add(time.Hour))}
	alice := nbd.TLS{PSKFile: keyFile(t, "alice:"+psk)}

	tests := []struct {
		name string
		uri  string
		tls  nbd.TLS
		want job.Kind // "" for success
		text string   // in the error
	}{
		{"a known authority", "nbds://" + good, trust, "", ""},
		{"an address", "nbds://" + strings.Replace(good, "localhost", "127.0.0.1", 1), trust, "", ""},
		{"qemu-nbd", "nbds://" + byQEMU, trust, "", ""},
		{"a client with a certificate", "nbds://" + asks, client, "", ""},
		{"a client without one", "nbds://" + asks, trust, job.Unavailable, "after the handshake"},
		{"an unknown authority", "nbds://" + good, nbd.TLS{Certificates: theirs.trust(t)}, job.Auth, "not verified"},
		{"qemu-nbd by an unknown authority", "nbds://" + byQEMU, nbd.TLS{Certificates: theirs.trust(t)}, job.Auth, ""},
		{"another host's certificate", "nbds://" + elsewhere, trust, job.Auth, "not verified"},
		{"an old certificate", "nbds://" + expired, trust, job.Auth, "not verified"},
		{"a server without TLS", "nbds://" + plain, trust, job.Unsupported, "no TLS"},
		{"a server without TLS, with a key", "nbds://" + plain, alice, job.Unsupported, "no TLS"},
		{"a server without TLS, unverified", "nbds://" + plain, nbd.TLS{Unverified: true}, job.Unsupported, "no TLS"},
		{"nothing to verify with", "nbds://" + good, nbd.TLS{}, job.Invalid, "nothing would tell"},
		{"unverified by name", "nbds://" + elsewhere, nbd.TLS{Unverified: true}, "", ""},
		{"a key", "nbds://" + keyed, alice, "", ""},
		{"a key of the URI's user", "nbds://alice@" + keyed, nbd.TLS{
			PSKFile: keyFile(t, "bob:"+strings.Repeat("2", 64), "alice:"+psk),
		}, "", ""},
		{"several keys and no user", "nbds://" + keyed, nbd.TLS{
			PSKFile: keyFile(t, "bob:"+psk, "alice:"+psk),
		}, job.Invalid, "2 users"},
		{"a wrong key", "nbds://" + keyed, nbd.TLS{
			PSKFile: keyFile(t, "alice:"+strings.Repeat("3", 64)),
		}, job.Auth, "key"},
		{"an unknown user", "nbds://" + keyed, nbd.TLS{PSKFile: keyFile(t, "mallory:"+psk)}, job.Auth, "key"},
		{"a key for a server with certificates", "nbds://" + good, alice, job.Auth, ""},
		{"a plain URI to a server that requires TLS", "nbd://" + good, trust, job.Unsupported, "TLS"},
		{"a key for qemu-nbd", "nbds://" + byQEMUKey, alice, "", ""},
		{"a wrong key for qemu-nbd", "nbds://" + byQEMUKey, nbd.TLS{
			PSKFile: keyFile(t, "alice:"+strings.Repeat("3", 64)),
		}, job.Auth, "key"},
		{"a folder in the URI", "nbds://" + good + "?tls-certificates=/tmp", trust, job.Permission, "tls-certificates"},
		{"no proof by the URI", "nbds://" + good + "?tls-verify-peer=false", trust, job.Permission, "tls-verify"},
		{"a plain URI", "nbd://" + plain, trust, "", ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			to := dirty(t, len(want))
			task := nbd.Task{Source: tc.uri, Target: copytest.Onto(to), TLS: tc.tls, Reconnect: -1}
			_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
			if tc.want == "" {
				check(t, err)
				same(t, content(t, to), want)
			} else {
				t.Logf("%v\nNext: %s", err, job.NextOf(err))
				wantKind(t, err, tc.want)
				if !strings.Contains(err.Error(), tc.text) || job.NextOf(err) == "" {
					t.Errorf("next step %q of: %v", job.NextOf(err), err)
				}
			}
			target, err := nbd.ExportTarget(tc.uri, tc.tls)
			if err == nil {
				_, _, err = target.Look(t.Context())
			}
			if (err == nil) != (tc.want == "") || job.KindOf(err) != tc.want {
				t.Errorf("as a target: %v", err)
			}
		})
	}
}

func TestAServerOnASocketIsVerifiedByAKey(t *testing.T) {
	want := disk(mib, mixed)
	server := kit(t, "--tls=require", "--tls-psk="+keyFile(t, "alice:"+psk), "file", image(t, want))
	uri := strings.Replace(server.uri, "nbd+unix:", "nbds+unix:", 1)
	to := dirty(t, len(want))
	_, err := copytest.Copy(t.Context(), nbd.Task{
		Source: uri, Target: copytest.Onto(to), TLS: nbd.TLS{PSKFile: keyFile(t, "alice:"+psk)},
	}, &nbd.Meter{})
	check(t, err)
	same(t, content(t, to), want)
	_, err = nbd.ExportTarget(uri, nbd.TLS{Certificates: newAuthority(t, "Ours").trust(t)})
	wantKind(t, err, job.Invalid)
}

func TestWhatTLSNeedsIsCheckedBeforeItIsUsed(t *testing.T) {
	open := keyFile(t, "alice:"+psk)
	check(t, os.Chmod(open, 0o644))
	half := newAuthority(t, "Ours").trust(t)
	check(t, os.WriteFile(filepath.Join(half, "client-cert.pem"), nil, 0o600))
	for _, tls := range []nbd.TLS{
		{Certificates: t.TempDir()},
		{Certificates: "/does/not/exist"},
		{Certificates: half},
		{PSKFile: "/does/not/exist"},
		{PSKFile: open},
		{PSKFile: keyFile(t, "# nothing")},
		{PSKFile: keyFile(t, "alice:"+psk), Certificates: half},
		{PSKFile: keyFile(t, "alice:"+psk), Unverified: true},
	} {
		err := tls.Check()
		if k := job.KindOf(err); k != job.Invalid && k != job.NotFound || job.NextOf(err) == "" ||
			strings.Contains(fmt.Sprint(err), psk) {
			t.Errorf("%+v: kind %s, next step %q: %v", tls, k, job.NextOf(err), err)
		}
	}
	check(t, nbd.TLS{}.Check())
	check(t, nbd.TLS{Certificates: newAuthority(t, "Ours").trust(t)}.Check())
}
