package http

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
)

// lookEvery is how often the files of a certificate are looked at, at most, when clients connect.
const lookEvery = time.Second

// Certificate is the certificate of the TLS listener and its key. It is read again when one of its files has changed;
// connections that are open keep the one before. A pair that cannot be used, as while files are being replaced, leaves
// the last good one in force. Its methods may be called from many goroutines.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu     sync.Mutex
	pair   *tls.Certificate
	read   [2]fs.FileInfo // of the files when pair was read
	looked time.Time
	said   string // the last complaint in the log
}

// unchanged says whether a file was neither written nor replaced between two looks.
func unchanged(a, b fs.FileInfo) bool {
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && os.SameFile(a, b)
}

// LoadCertificate reads a certificate, with the chain up to its authority after it, and its key; both PEM. Errors are
// of kind Invalid. now is nil for time.Now.
func LoadCertificate(certFile, keyFile string, log *slog.Logger, now func() time.Time) (*Certificate, error) {
	if now == nil {
		now = time.Now
	}
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log, now: now, looked: now()}
	state, err := c.look()
	if err != nil {
		return nil, badPair(err)
	}
	if err := c.load(state); err != nil {
		return nil, badPair(err)
	}
	return c, nil
}

func badPair(err error) error {
	return job.Errorf("read certificate", job.Invalid,
		"Write a certificate with its chain to tls.cert_file, and its key to tls.key_file, both PEM", "%w", err)
}

// look returns the states of both files.
func (c *Certificate) look() (state [2]fs.FileInfo, err error) {
	for i, path := range []string{c.certFile, c.keyFile} {
		if state[i], err = os.Stat(path); err != nil {
			return state, err
		}
	}
	return state, nil
}

// load reads both files. The caller holds mu, or is the only one who knows c.
func (c *Certificate) load(state [2]fs.FileInfo) error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	if pair.Leaf == nil {
		return errors.New("there is no certificate in the file")
	}
	c.pair, c.read = &pair, state
	if c.now().After(pair.Leaf.NotAfter) {
		c.log.Warn("the certificate has expired: clients will refuse it", "file", c.certFile, "expired",
			pair.Leaf.NotAfter)
	}
	return nil
}

// current is the pair in force, after a look at the files.
func (c *Certificate) current() *tls.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.looked) < lookEvery && !now.Before(c.looked) {
		return c.pair
	}
	c.looked = now
	state, err := c.look()
	if err == nil && slices.EqualFunc(state[:], c.read[:], unchanged) {
		return c.pair
	}
	if err == nil {
		err = c.load(state)
	}
	switch {
	case err == nil:
		c.said = ""
		c.log.Info("the certificate was read again", "file", c.certFile, "expires", c.pair.Leaf.NotAfter)
	case err.Error() != c.said:
		c.said = err.Error()
		c.log.Warn("the certificate cannot be read; the last good one stays in force", "err", err)
	}
	return c.pair
}

// Expires is when the certificate in force ends.
func (c *Certificate) Expires() time.Time { return c.current().Leaf.NotAfter }

// isFor says whether the certificate is for that host.
func (c *Certificate) isFor(host string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pair.Leaf.VerifyHostname(host) == nil
}

// Config is the configuration of a TLS listener. It names HTTP/2: a server whose plain listener is served first would
// else offer it to clients over TLS, and then close their connections.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current(), nil },
	}
}
