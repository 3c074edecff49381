package http_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(tb testing.TB) *authority {
	tb.Helper()
	a := &authority{pool: x509.NewCertPool()}
	a.key = newKey(tb)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	a.cert = sign(tb, template, template, &a.key.PublicKey, a.key)
	a.pool.AddCert(a.cert)
	return a
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func sign(tb testing.TB, template, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey,
) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// write writes a new certificate for vma.example and 127.0.0.1 and its key, each by a rename as tools do it.
func (a *authority) write(tb testing.TB, dir string, serial int64, until time.Time) {
	tb.Helper()
	key := newKey(tb)
	cert := sign(tb, &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: []string{"vma.example", "*.vma.example"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until,
	}, a.cert, &key.PublicKey, a.key)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Raw}, "key.pem": {Type: "PRIVATE KEY", Bytes: der},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			tb.Fatal(err)
		}
	}
}

// secure is a daemon with TLS.
type secure struct {
	*guarded
	a    *authority
	dir  string
	addr string
	log  *logBuffer
	now  func() time.Time
}

func secured(tb testing.TB, hosts ...string) *secure {
	tb.Helper()
	s := &secure{a: newAuthority(tb), dir: tb.TempDir(), log: &logBuffer{}}
	s.a.write(tb, s.dir, 7, time.Now().Add(time.Hour))
	var mu sync.Mutex
	at := time.Now()
	s.now = func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(time.Minute) // each look is later than the one before
		return at
	}
	cert, err := apihttp.LoadCertificate(filepath.Join(s.dir, "cert.pem"), filepath.Join(s.dir, "key.pem"),
		slog.New(slog.NewTextHandler(s.log, nil)), s.now)
	if err != nil {
		tb.Fatal(err)
	}
	s.guarded = guard(tb, func(o *apihttp.Options) { o.Certificate, o.Hosts = cert, hosts })
	l, err := apihttp.ListenTLS("127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s.addr = l.Addr().String()
	server := apihttp.NewServer(s.h, discard())
	server.TLSConfig = cert.Config()
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(l, "", "") }()
	tb.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			tb.Error(err)
		}
	})
	return s
}

// ask makes a connection of its own under that name, and returns the answer and the certificate.
func (s *secure) ask(tb testing.TB, name, host, path string, header map[string]string) (*http.Response, *big.Int) {
	tb.Helper()
	t := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.a.pool, ServerName: name}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", s.addr)
		},
	}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, "https://"+name+path, http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	req.Host = host
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := t.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	resp.Body.Close()
	return resp, resp.TLS.PeerCertificates[0].SerialNumber
}

func TestANewCertificateIsServedWithoutARestart(t *testing.T) {
	s := secured(t)
	expect := func(serial int64) {
		t.Helper()
		resp, got := s.ask(t, "vma.example", "vma.example", "/livez", nil)
		if got.Int64() != serial || resp.StatusCode != http.StatusOK || resp.ProtoMajor != 2 {
			t.Errorf("certificate %v, %s, %s; want %d", got, resp.Status, resp.Proto, serial)
		}
	}
	expect(7)
	s.a.write(t, s.dir, 8, time.Now().Add(time.Hour))
	expect(8)
	// While files are replaced, and when they are gone, the last good pair stays.
	key, err := os.ReadFile(filepath.Join(s.dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s.a.write(t, s.dir, 9, time.Now().Add(time.Hour))
	next, err := os.ReadFile(filepath.Join(s.dir, "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for _, half := range [][]byte{key, next[:20], {}} {
		if err := os.WriteFile(filepath.Join(s.dir, "key.pem"), half, 0o600); err != nil {
			t.Fatal(err)
		}
		expect(8)
		expect(8)
	}
	if err := os.Remove(filepath.Join(s.dir, "key.pem")); err != nil {
		t.Fatal(err)
	}
	expect(8)
	if n := strings.Count(s.log.String(), "the last good one stays in force"); n < 3 || n > 4 {
		t.Errorf("%d complaints: %s", n, s.log.String())
	}
	if err := os.WriteFile(filepath.Join(s.dir, "key.pem"), next, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(9)
}

func TestACertificateThatCannotBeUsedIsRefusedAtTheStart(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	load := func() error {
		_, err := apihttp.LoadCertificate(cert, key, discard(), nil)
		return err
	}
	bad := func(what string) {
		t.Helper()
		if err := load(); job.KindOf(err) != job.Invalid || job.NextOf(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	bad("nothing")
	a.write(t, dir, 1, time.Now().Add(time.Hour))
	if err := load(); err != nil {
		t.Error(err)
	}
	if err := os.Rename(cert, key); err != nil {
		t.Fatal(err)
	}
	bad("no certificate")
	if err := os.WriteFile(cert, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	bad("no PEM")
	var log logBuffer
	a.write(t, dir, 2, time.Now().Add(-time.Minute))
	c, err := apihttp.LoadCertificate(cert, key, slog.New(slog.NewTextHandler(&log, nil)), nil)
	if err != nil || !strings.Contains(log.String(), "has expired") || c.Expires().After(time.Now()) {
		t.Errorf("an expired one: %v, log %s", err, log.String())
	}
}

func TestOverTLSTheNamesOfTheCertificateAreAnswered(t *testing.T) {
	s := secured(t, "proxy.example")
	for host, want := range map[string]int{
		"vma.example": 200, "VMA.example:8443": 200, "a.vma.example": 200, "127.0.0.1": 200, "proxy.example": 200,
		"evil.example": 421, "vma.example.evil.example": 421, "192.0.2.1": 421,
	} {
		if resp, _ := s.ask(t, "vma.example", host, "/livez", nil); resp.StatusCode != want {
			t.Errorf("%s: %s, want %d", host, resp.Status, want)
		}
	}
	resp, _ := talk(t, http.MethodGet, s.base+"/livez", "", nil)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Strict-Transport-Security") != "" {
		t.Errorf("without TLS: %s, %v", resp.Status, resp.Header)
	}
}

func TestOverTLSALoginIsForThisHostOnly(t *testing.T) {
	s := secured(t)
	c, err := rest.NewClient("https://"+s.addr, rest.WithAuthorities(s.a.pool),
		rest.WithToken(job.NewSecret(s.text[job.Viewer])))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if who, err := c.Session(t.Context()); err != nil || who.Open || who.Role != job.Viewer {
		t.Errorf("%+v, %v", who, err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.a.pool}}}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+s.addr+rest.SessionPath,
		strings.NewReader(`{"token":"`+s.text[job.Viewer]+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if got := resp.Cookies(); len(got) != 1 || !got[0].Secure || !strings.HasPrefix(got[0].Name, "__Host-") ||
		resp.Header.Get("Strict-Transport-Security") == "" {
		t.Fatalf("%s, cookies %v, %v", resp.Status, got, resp.Header)
	}
	resp, _ = s.ask(t, "vma.example", "vma.example", "/api/v1/jobs", cookieOf(resp.Cookies()[0]))
	if resp.StatusCode != http.StatusOK {
		t.Errorf("with the cookie: %s", resp.Status)
	}
}

func TestAClientThatCannotVerifyTheDaemonSaysSo(t *testing.T) {
	s := secured(t)
	c, err := rest.NewClient("https://"+s.addr, rest.WithAuthorities(newAuthority(t).pool),
		rest.WithToken(job.NewSecret(s.text[job.Viewer])))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Watch(t.Context(), "", nil)
	if job.KindOf(err) != job.Permission || !strings.Contains(job.NextOf(err), "--ca-file") {
		t.Errorf("%v, next %q", err, job.NextOf(err))
	}
}

func TestAPlainListenerThatIsServedFirstLeavesHTTP2ToTheOneOfTLS(t *testing.T) {
	a, dir := newAuthority(t), t.TempDir()
	a.write(t, dir, 2, time.Now().Add(time.Hour))
	cert, err := apihttp.LoadCertificate(filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"),
		slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{TLSConfig: cert.Config(), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(
		func(http.ResponseWriter, *http.Request) {})}
	defer srv.Close()
	client := &http.Client{Transport: &http.Transport{
		ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: a.pool, MinVersion: tls.VersionTLS12},
	}}
	defer client.CloseIdleConnections()
	for _, scheme := range []string{"http", "https"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if scheme == "https" {
			go func() { _ = srv.ServeTLS(l, "", "") }() // until the server is closed
		} else {
			go func() { _ = srv.Serve(l) }()
		}
		answer, err := client.Get(scheme + "://" + l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if scheme == "https" && answer.ProtoMajor != 2 {
			t.Errorf("%s answers by %s", scheme, answer.Proto)
		}
	}
}
