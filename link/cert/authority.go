package cert

import (
	"bufio"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
)

// The files of a folder of certificates.
const (
	caFile      = "ca.pem"
	caKeyFile   = "ca.key"
	nodeFile    = "node.pem"
	nodeKeyFile = "node.key"
	revokedFile = "revoked.pem"
	issuedFile  = "issued"
	lockFile    = "lock"
)

const (
	// StandardAuthorityLife is how long an authority lasts.
	StandardAuthorityLife = 10 * 365 * 24 * time.Hour
	// StandardNodeLife is how long the certificate of a node lasts.
	StandardNodeLife = 365 * 24 * time.Hour
	// clockSlack is how late the clock of a node may be, against that of the authority.
	clockSlack = 24 * time.Hour
)

// Authority signs the certificates of nodes. Several processes may use the same folder: each change holds its lock.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// CreateAuthority makes an authority in a folder, which is made with mode 0700 if it is not there. life is above 0.
// Errors are of kind Conflict if the folder has an authority.
func CreateAuthority(dir string, life time.Duration) (*Authority, error) {
	const op = "make authority"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, job.SystemError(op, nextFolder, err)
	}
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: "vmferry authority"},
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(life), IsCA: true, BasicConstraintsValid: true,
		MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", op, err)
	}
	text, err := keyText(key)
	if err != nil {
		return nil, err
	}
	if err := writeNew(filepath.Join(dir, caKeyFile), text, 0o600); err != nil {
		return nil, err
	}
	if err := writeNew(filepath.Join(dir, caFile), pemOf("CERTIFICATE", der), 0o644); err != nil {
		return nil, err
	}
	return OpenAuthority(dir)
}

const nextFolder = "Name a folder that this user may write to"

// HasAuthority says whether the folder has the key of an authority.
func HasAuthority(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, caKeyFile))
	return err == nil
}

// OpenAuthority reads an authority. Errors are of kind NotFound (there is none) and Invalid.
func OpenAuthority(dir string) (*Authority, error) {
	const op, next = "open authority", "Make one with vmferry cert ca, or name the folder that has ca.pem and ca.key"
	text, err := readPrivate(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, err
	}
	certs, err := readCertificates(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, job.Errorf(op, job.Invalid, next, "%s has no key", caKeyFile)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, job.Errorf(op, job.Invalid, next, "%s: %w", caKeyFile, err)
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return nil, job.Errorf(op, job.Invalid, next, "the key in %s cannot sign", caKeyFile)
	}
	if !isFor(certs[0], key.Public()) {
		return nil, job.Errorf(op, job.Invalid, next, "%s is not the key of the first certificate in %s", caKeyFile,
			caFile)
	}
	return &Authority{dir, certs[0], key, time.Now}, nil
}

// Node makes a key and the certificate of a node, and writes them with the authority's certificates and the list of
// revoked ones to a folder, which is made with mode 0700 if it is not there; it may be the authority's own. A
// certificate that is there is replaced, as for a renewal. life is above 0.
func (a *Authority) Node(name, role, dir string, life time.Duration) error {
	if err := errors.Join(CheckName(name), CheckRole(role)); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return job.SystemError("make the node's folder", nextFolder, err)
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	text, err := a.issue(name, role, key.Public(), life)
	if err != nil {
		return err
	}
	authority, revoked, err := a.public()
	if err != nil {
		return err
	}
	return install(dir, key, text, authority, revoked)
}

// install writes the files of a node. The key comes first: a reader that looks in between finds a pair that does not
// match, and keeps the one before.
func install(dir string, key *ecdsa.PrivateKey, node, authority, revoked []byte) error {
	text, err := keyText(key)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
		mode fs.FileMode
	}{
		{caFile, authority, 0o644},
		{nodeKeyFile, text, 0o600},
		{nodeFile, node, 0o644},
		{revokedFile, revoked, 0o644},
	} {
		if f.text == nil {
			continue
		}
		if err := replace(filepath.Join(dir, f.name), f.text, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// public are the files that every node has.
func (a *Authority) public() (authority, revoked []byte, err error) {
	if authority, err = os.ReadFile(filepath.Join(a.dir, caFile)); err != nil {
		return nil, nil, job.SystemError("read authority", nextFolder, err)
	}
	revoked, err = os.ReadFile(filepath.Join(a.dir, revokedFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, job.SystemError("read revoked certificates", nextFolder, err)
	}
	return authority, revoked, nil
}

// issue signs a certificate, PEM. The line in the list of issued ones comes first, so that it can be revoked.
func (a *Authority) issue(name, role string, key crypto.PublicKey, life time.Duration) ([]byte, error) {
	now := a.now()
	end := now.Add(life)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	tmpl := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name, OrganizationalUnit: []string{role}},
		NotBefore: now.Add(-clockSlack), NotAfter: end, DNSNames: []string{name},
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	line := fmt.Sprintf("%s %s %s\n", tmpl.SerialNumber.Text(16), name, end.UTC().Format(time.RFC3339))
	err := locked(a.dir, func() error {
		f, err := os.OpenFile(filepath.Join(a.dir, issuedFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = f.WriteString(line)
		return errors.Join(err, f.Sync(), f.Close())
	})
	if err != nil {
		return nil, job.SystemError("list the certificate as issued", nextFolder, err)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return pemOf("CERTIFICATE", der), nil
}

// Revoke adds all certificates of a node that were issued so far to the list of revoked ones, and returns how many of
// them were not in it before. Errors are of kind NotFound if the node has had none.
func (a *Authority) Revoke(name string) (added int, err error) {
	const op = "revoke certificates"
	known := false
	err = locked(a.dir, func() error {
		list := &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: a.now().Add(-clockSlack), NextUpdate: a.cert.NotAfter,
		}
		old, err := readRevoked(filepath.Join(a.dir, revokedFile), []*x509.Certificate{a.cert})
		if err != nil {
			return err
		}
		have := map[string]bool{}
		if old != nil {
			list.Number.Add(old.Number, big.NewInt(1))
			list.RevokedCertificateEntries = old.RevokedCertificateEntries
			for _, e := range old.RevokedCertificateEntries {
				have[e.SerialNumber.Text(16)] = true
			}
		}
		serials, err := a.issued(name)
		if err != nil {
			return err
		}
		known = len(serials) > 0
		for _, s := range serials {
			if !have[s.Text(16)] {
				added++
				list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
					x509.RevocationListEntry{SerialNumber: s, RevocationTime: a.now()})
			}
		}
		if added == 0 {
			return nil
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
		if err != nil {
			return err
		}
		return replace(filepath.Join(a.dir, revokedFile), pemOf("X509 CRL", der), 0o644)
	})
	if err == nil && !known {
		err = job.Errorf(op, job.NotFound, "Look at the file issued in the authority's folder",
			"this authority has made no certificate for node %s", name)
	}
	return added, err
}

// issued are the serial numbers of a node's certificates.
func (a *Authority) issued(name string) (serials []*big.Int, err error) {
	text, err := os.ReadFile(filepath.Join(a.dir, issuedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, job.SystemError("read issued certificates", nextFolder, err)
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) != 3 {
			return nil, job.Errorf("read issued certificates", job.Corrupt, "Restore the file "+issuedFile,
				"%q is not a line of it", lines.Text())
		}
		n, ok := new(big.Int).SetString(f[0], 16)
		if ok && strings.EqualFold(f[1], name) {
			serials = append(serials, n)
		}
	}
	return serials, lines.Err()
}

// locked runs f while no other process changes the folder.
func locked(dir string, f func() error) error {
	l, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return job.SystemError("lock the folder of certificates", nextFolder, err)
	}
	defer l.Close() //nolint:errcheck // ends the lock; nothing was written
	if err := syscall.Flock(int(l.Fd()), syscall.LOCK_EX); err != nil {
		return job.SystemError("lock the folder of certificates", nextFolder, err)
	}
	return f()
}

// isFor says whether a certificate is that of a public key.
func isFor(c *x509.Certificate, key crypto.PublicKey) bool {
	pub, ok := c.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && pub.Equal(key)
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func newSerial() *big.Int {
	const bits = 127 // positive, and within the 20 bytes of the standard
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), bits))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return n
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
