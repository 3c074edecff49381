package cert

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Node is the certificate of this node, and what it knows of the certificates of others. Its methods may be called from
// many goroutines. Each handshake uses what was read last.
type Node struct {
	dir string
	log *slog.Logger

	mu   sync.Mutex
	have *material
	seen []fs.FileInfo // of the files when they were read; nil for one that was not there
	said string        // the last complaint in the log
}

// material is the content of a node's files. It does not change.
type material struct {
	pair        *tls.Certificate
	self        Identity
	authorities []*x509.Certificate
	pool        *x509.CertPool
	revoked     map[string]bool // serial numbers
	number      *big.Int        // of the list of revoked certificates; nil without one
}

// trusting has authorities, and no certificate of its own.
func trusting(authorities ...*x509.Certificate) *material {
	m := &material{authorities: authorities, pool: x509.NewCertPool(), revoked: map[string]bool{}}
	for _, a := range authorities {
		m.pool.AddCert(a)
	}
	return m
}

// unchanged says whether a file was neither written nor replaced between two looks; nil says that it was not there.
func unchanged(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && os.SameFile(a, b)
}

// Open reads the files of a node. A certificate that has expired or was revoked is no error, so that the daemon starts:
// the log has it, and peers refuse it until there is a new one. Errors are of kind NotFound, Invalid and Auth.
func Open(dir string, log *slog.Logger) (*Node, error) {
	n := &Node{dir: dir, log: log}
	state := n.look()
	m, err := read(dir)
	if err != nil {
		return nil, err
	}
	if _, err := m.verify(m.pair.Leaf, nil, ""); err != nil {
		log.Error("this node's own certificate is of no use: no other node will be linked", "err", err,
			"next", "Make a new one with vmferry cert node, or vmferry node join")
	}
	n.have, n.seen = m, state
	return n, nil
}

func (n *Node) look() (state []fs.FileInfo) {
	for _, name := range []string{caFile, nodeFile, nodeKeyFile, revokedFile} {
		info, err := os.Stat(filepath.Join(n.dir, name))
		if err != nil {
			info = nil
		}
		state = append(state, info)
	}
	return state
}

func read(dir string) (*material, error) {
	if _, err := readPrivate(filepath.Join(dir, nodeKeyFile)); err != nil {
		return nil, err
	}
	authorities, err := readCertificates(filepath.Join(dir, caFile))
	if err != nil {
		return nil, err
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, nodeFile), filepath.Join(dir, nodeKeyFile))
	if err != nil {
		return nil, job.Errorf("read certificate", job.Invalid, "Make it with vmferry cert node, or vmferry node join",
			"%w", err)
	}
	m := trusting(authorities...)
	m.pair = &pair
	if m.self, err = identityOf(pair.Leaf); err != nil {
		return nil, err
	}
	list, err := readRevoked(filepath.Join(dir, revokedFile), authorities)
	if err != nil {
		return nil, err
	}
	if list != nil {
		m.number = list.Number
		for _, e := range list.RevokedCertificateEntries {
			m.revoked[e.SerialNumber.Text(16)] = true
		}
	}
	return m, nil
}

// Reload reads the files again if one of them has changed, and says whether what they say is now in force. Files that
// are of no use, and a list of revoked certificates that is older than the one in force, leave the last good ones in
// force; the log has the reason once.
func (n *Node) Reload() (changed bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	state := n.look()
	if slices.EqualFunc(state, n.seen, unchanged) {
		return false
	}
	m, err := read(n.dir)
	switch {
	case err != nil:
	case m.self.Name != n.have.self.Name || m.self.Role != n.have.self.Role:
		err = job.Errorf("read certificate", job.Conflict, "Start vmferry again to give the node another name",
			"the new certificate is that of %s with role %s", m.self.Name, m.self.Role)
	case n.have.number != nil && (m.number == nil || m.number.Cmp(n.have.number) < 0):
		err = job.Errorf("read revoked certificates", job.Conflict, "Copy revoked.pem from the authority's folder",
			"the list is older than the one in force")
	}
	if err != nil {
		if n.said != err.Error() {
			n.said = err.Error()
			n.log.Warn("the link's certificates cannot be read; the last good ones stay in force", "err", err)
		}
		return false
	}
	n.have, n.seen, n.said = m, state, ""
	n.log.Info("the link's certificates were read again", "node", m.self.Name, "expires", m.self.NotAfter,
		"revoked", len(m.revoked))
	return true
}

func (n *Node) current() *material {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.have
}

// Self is this node, as its certificate in force says.
func (n *Node) Self() Identity { return n.current().self }

// Check refuses the certificate of a peer that is connected: it was revoked, or has expired. Errors are of kind Auth.
func (n *Node) Check(id Identity) error { return n.current().check(id, time.Now()) }

func (m *material) check(id Identity, now time.Time) error {
	const op = "check certificate"
	switch {
	case m.revoked[id.Serial]:
		return job.Errorf(op, job.Auth, "Make a new certificate for the node, if it is to come back",
			"the certificate of node %s was revoked", id.Name)
	case now.After(id.NotAfter):
		return job.Errorf(op, job.Auth, "Renew it with vmferry cert node or vmferry node join",
			"the certificate of node %s has expired on %s", id.Name, id.NotAfter.UTC().Format(time.DateOnly))
	}
	return nil
}

// verify checks a peer's certificate against the authorities and the list of revoked ones, and its name if name is not
// "". Errors are of kind Auth.
func (m *material) verify(leaf *x509.Certificate, more []*x509.Certificate, name string) (Identity, error) {
	const op = "verify certificate"
	between := x509.NewCertPool()
	for _, c := range more {
		between.AddCert(c)
	}
	// Both ends have certificates for both usages: either may dial.
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: m.pool, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{use},
		})
		if err != nil {
			return Identity{}, job.Errorf(op, job.Auth,
				"Make the certificates of both nodes with the same authority, and look at the clocks", "%w", err)
		}
	}
	id, err := identityOf(leaf)
	if err != nil {
		return id, err
	}
	if name != "" && !strings.EqualFold(id.Name, name) {
		return id, job.Errorf(op, job.Auth, "Look at link.peers: another node answers there",
			"the certificate is that of node %s, not of %s", id.Name, name)
	}
	return id, m.check(id, time.Now())
}

// Peer is the identity of the other end of a connection whose handshake went through.
func (n *Node) Peer(cs tls.ConnectionState) (Identity, error) {
	if len(cs.PeerCertificates) == 0 {
		return Identity{}, job.Errorf("verify certificate", job.Auth, "Give the node a certificate: vmferry node join",
			"the node has shown no certificate")
	}
	return n.current().verify(cs.PeerCertificates[0], cs.PeerCertificates[1:], "")
}

// Server is the configuration of the end that is dialled. Clients must show a certificate of a node. protocols are the
// protocols of the layer above; nil for any.
func (n *Node) Server(protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols, SessionTicketsDisabled: true,
		ClientAuth:     tls.RequireAnyClientCert, // VerifyConnection verifies it, with the authorities of now
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return n.current().pair, nil },
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := n.Peer(cs)
			return err
		},
	}
}

// Client is the configuration of the end that dials. The other end must be the node that the configuration's ServerName
// names; name sets it, unless it is "".
func (n *Node) Client(name string, protocols []string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protocols, ServerName: name, SessionTicketsDisabled: true,
		InsecureSkipVerify: true, //nolint:gosec // VerifyConnection verifies, with the authorities of now
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return n.current().pair, nil
		},
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.ServerName == "" || len(cs.PeerCertificates) == 0 {
				return errors.New("no node is named")
			}
			_, err := n.current().verify(cs.PeerCertificates[0], cs.PeerCertificates[1:], cs.ServerName)
			return err
		},
	}
}
