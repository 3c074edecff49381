package app

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	apihttp "github.com/vmferry/vmferry/http"
	"github.com/vmferry/vmferry/job"
)

// checkListen refuses an address that others can reach without a certificate: tokens must not cross a network in clear.
func (cfg *Config) checkListen() error {
	t := cfg.TLS
	if !strings.HasPrefix(cfg.Listen, "unix:") && !strings.Contains(cfg.Listen, ":") {
		return wrong("listen", "Write it as in 127.0.0.1:8081 or unix:/run/vmferry/vmferry.sock", "%q has no port",
			cfg.Listen)
	}
	local := apihttp.Local(cfg.Listen)
	if !local && (t.CertFile == "" || t.KeyFile == "") {
		return wrong("listen", "Set tls.cert_file and tls.key_file, and make a token with vmferry token create; or "+
			"listen on 127.0.0.1 or a unix socket",
			"%s is not a loopback address: it is served only over TLS, and asks for tokens", cfg.Listen)
	}
	if t.Listen != "" {
		if _, port, err := net.SplitHostPort(t.Listen); err != nil || port == "" {
			return wrong("tls.listen", "Write it as in 0.0.0.0:8443", "%q is not an address with a port", t.Listen)
		}
		if t.Listen == cfg.Listen {
			return wrong("tls.listen", "Leave it out: listen serves this address", "listen has the same address")
		}
		if t.CertFile == "" || t.KeyFile == "" {
			return wrong("tls.cert_file", "Set tls.cert_file and tls.key_file",
				"tls.listen needs a certificate and its key")
		}
	}
	switch {
	case (t.CertFile == "") != (t.KeyFile == ""):
		return wrong("tls.key_file", "Set tls.cert_file and tls.key_file, or none of them",
			"a certificate needs its key, and a key its certificate")
	case t.CertFile == "":
		return nil
	case local && t.Listen == "":
		return wrong("tls.listen", "Set tls.listen to the address for others, as in 0.0.0.0:8443",
			"a certificate is set, but no address is served with it")
	}
	return cfg.checkCertificate()
}

func (cfg *Config) checkCertificate() error {
	for key, path := range map[string]string{"tls.cert_file": cfg.TLS.CertFile, "tls.key_file": cfg.TLS.KeyFile} {
		if !filepath.IsAbs(path) {
			return wrong(key, "Write the whole path, starting with /", "%q is not an absolute path", path)
		}
		info, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return wrong(key, "Write the certificate with its chain, or the key, into that file as PEM",
				"%s does not exist", path)
		case err != nil:
			return wrong(key, "Give the file to the user that runs vmferry", "%w", err)
		case key == "tls.key_file" && info.Mode().Perm()&0o007 != 0:
			return wrong(key, "Type: chmod 0600 "+path, "every user of this machine can read or change %s (mode %04o)",
				path, info.Mode().Perm())
		}
	}
	_, err := apihttp.LoadCertificate(cfg.TLS.CertFile, cfg.TLS.KeyFile, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return wrong("tls.cert_file", job.NextOf(err), "%w", err)
	}
	return nil
}

func (cfg *Config) checkAuth() error {
	const mostPerSecond = 1e6
	for _, h := range cfg.Auth.Hosts {
		if h == "" || strings.ContainsAny(h, "/*: ") && net.ParseIP(h) == nil {
			return wrong("auth.hosts", "Write names or addresses without port, as in vma.example.org", "%q is no host",
				h)
		}
	}
	if s := cfg.Auth.Session; s < time.Minute || s > 720*time.Hour {
		return wrong("auth.session", "Use 1m to 720h", "%v is out of range", s)
	}
	if r := cfg.Auth.RequestsPerSecond; !(r >= 0 && r <= mostPerSecond) || r > 0 && r < 1 {
		return wrong("auth.requests_per_second", "Use 1 or more, or 0 for no limit", "%v is out of range", r)
	}
	return nil
}

// asksForTokens says whether any address asks for tokens.
func (cfg *Config) asksForTokens() bool {
	return cfg.Auth.Required || cfg.TLS.Listen != "" || !apihttp.Local(cfg.Listen)
}
