package vsphere

import (
	"crypto/sha1" //nolint:gosec // VMware's own tools name certificates by SHA-1; it is compared, never relied on alone
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"github.com/vmferry/vmferry/job"
)

// trust decides whether a server's certificate is accepted, and keeps the one that was accepted last.
type trust struct {
	pin  []byte // digest of the one certificate that is accepted; nil to verify by authorities
	leaf atomic.Pointer[x509.Certificate]
}

// thumbprintError is a certificate that is not the pinned one.
type thumbprintError struct{ got *x509.Certificate }

func (e *thumbprintError) Error() string {
	return "the server's certificate has another thumbprint: " + sha256Thumbprint(e.got)
}

// Untrusted says whether an error means that the server's certificate is not trusted.
func Untrusted(err error) bool {
	_, pin := errors.AsType[*thumbprintError](err)
	_, chain := errors.AsType[*tls.CertificateVerificationError](err)
	return pin || chain
}

func newTrust(thumbprint string) (*trust, error) {
	if thumbprint == "" {
		return &trust{}, nil
	}
	pin, err := hex.DecodeString(strings.ReplaceAll(thumbprint, ":", ""))
	if err != nil || len(pin) != sha1.Size && len(pin) != sha256.Size {
		return nil, job.Errorf("check the vCenter configuration", job.Invalid,
			"Use the SHA-256 or SHA-1 thumbprint: 32 or 20 bytes in hexadecimal, as in AA:BB:CC",
			"vcenter.thumbprint is not a thumbprint")
	}
	return &trust{pin: pin}, nil
}

// config makes the TLS configuration that verifies certificates by t.
func (t *trust) config(caFile string) (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, VerifyConnection: t.verify}
	if t.pin != nil {
		cfg.InsecureSkipVerify = true // verify compares the whole certificate with the pinned one instead
		return cfg, nil
	}
	if caFile == "" {
		return cfg, nil
	}
	const op = "read the vCenter's authorities"
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, &job.Error{Op: op, Kind: job.Invalid, Next: "Set vcenter.ca_file to a PEM file", Err: err}
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, job.Errorf(op, job.Invalid, "Set vcenter.ca_file to a PEM file", "%s holds no certificate", caFile)
	}
	return cfg, nil
}

// verify runs in each handshake: after Go's own verification, or instead of it if a certificate is pinned.
func (t *trust) verify(st tls.ConnectionState) error {
	if len(st.PeerCertificates) == 0 {
		return errors.New("the server sent no certificate")
	}
	leaf := st.PeerCertificates[0]
	if t.pin != nil && !t.matches(leaf) {
		return &thumbprintError{leaf}
	}
	t.leaf.Store(leaf)
	return nil
}

func (t *trust) matches(cert *x509.Certificate) bool {
	if len(t.pin) == sha1.Size {
		sum := sha1.Sum(cert.Raw) //nolint:gosec // the operator pinned a SHA-1 thumbprint
		return string(sum[:]) == string(t.pin)
	}
	sum := sha256.Sum256(cert.Raw)
	return string(sum[:]) == string(t.pin)
}

func sha256Thumbprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return colons(sum[:])
}

func sha1Thumbprint(cert *x509.Certificate) string {
	sum := sha1.Sum(cert.Raw) //nolint:gosec // the only form that VMware's disk library knows
	return colons(sum[:])
}

func colons(b []byte) string {
	parts := make([]string, len(b))
	for i, c := range b {
		parts[i] = fmt.Sprintf("%02X", c)
	}
	return strings.Join(parts, ":")
}
