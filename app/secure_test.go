package app_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// certificate writes cert.pem, which is its own authority, and key.pem.
func certificate(tb testing.TB, dir string, serial int64) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		DNSNames:  []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		tb.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: secret},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

// secureConfig is a daemon without a vCenter, with a second address over TLS.
func secureConfig(tb testing.TB) app.Config {
	tb.Helper()
	dir, err := os.MkdirTemp("", "vf") //nolint:usetesting // short: a socket is below it
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	certificate(tb, dir, 1)
	cfg, _, err := app.Load(app.Sources{Flags: map[string]string{
		"listen": "127.0.0.1:0", "state_dir": filepath.Join(dir, "s"), "tls.listen": "localhost:0",
		"tls.cert_file": filepath.Join(dir, "cert.pem"), "tls.key_file": filepath.Join(dir, "key.pem"),
	}})
	if err != nil {
		tb.Fatalf("%v (%s)", err, job.NextOf(err))
	}
	return cfg
}

func started(tb testing.TB, cfg app.Config) *app.Daemon {
	tb.Helper()
	d, err := app.Start(tb.Context(), cfg, slog.New(slog.DiscardHandler), "test")
	if err != nil {
		tb.Fatalf("%v (%s)", err, job.NextOf(err))
	}
	tb.Cleanup(func() { stop(tb, d) })
	return d
}

func asked(tb testing.TB, address string, options ...rest.Option) (rest.Session, error) {
	tb.Helper()
	c, err := rest.NewClient(address, options...)
	if err != nil {
		tb.Fatal(err)
	}
	defer c.Close()
	return c.Session(tb.Context())
}

func TestOthersAreServedOverTLSWithATokenThatOutlivesTheDaemon(t *testing.T) {
	cfg := secureConfig(t)
	d := started(t, cfg)
	if s, err := asked(t, "http://"+d.Addr().String()); err != nil || !s.Open {
		t.Errorf("on loopback: %+v, %v", s, err)
	}
	socket, ok := strings.CutPrefix(d.URL(), "unix:")
	info, err := os.Stat(socket)
	if err != nil || !ok || info.Mode().Perm() != 0o600 || !strings.HasPrefix(socket, cfg.StateDir) {
		t.Fatalf("%s: %v, %v", d.URL(), info, err)
	}
	private, err := rest.NewClient(d.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer private.Close()
	made, err := private.CreateToken(t.Context(), rest.TokenRequest{Name: "ops", Role: job.Operator})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := rest.ReadAuthorities(cfg.TLS.CertFile)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(d *app.Daemon, token string) (rest.Session, error) {
		return asked(t, "https://"+d.SecureAddr().String(), rest.WithAuthorities(pool),
			rest.WithToken(job.NewSecret(token)))
	}
	if _, err := ask(d, ""); job.KindOf(err) != job.Auth {
		t.Errorf("without a token: %v", err)
	}
	if s, err := ask(d, made.Text); err != nil || s.Open || s.Name != "ops" || s.Role != job.Operator {
		t.Errorf("%+v, %v", s, err)
	}
	if err := d.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is still there")
	}
	err = filepath.WalkDir(cfg.StateDir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if strings.Contains(string(b), made.Text[20:]) {
			t.Errorf("%s has the token", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	again := started(t, cfg)
	if s, err := ask(again, made.Text); err != nil || s.Role != job.Operator {
		t.Errorf("after a restart: %+v, %v", s, err)
	}
}

func TestLoopbackAsksForTokensWhereItIsToldTo(t *testing.T) {
	cfg := secureConfig(t)
	cfg.Auth.Required = true
	d := started(t, cfg)
	if _, err := asked(t, "http://"+d.Addr().String()); job.KindOf(err) != job.Auth || job.NextOf(err) == "" {
		t.Errorf("on loopback: %v", err)
	}
	if s, err := asked(t, d.URL()); err != nil || !s.Open {
		t.Errorf("the daemon's own socket: %+v, %v", s, err)
	}
	c, err := rest.NewClient("http://" + d.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Progress(t.Context(), "job-of-others", rest.ProgressUpdate{Status: "running"}); err != nil {
		t.Errorf("an update of an older tool: %v", err)
	}
}
