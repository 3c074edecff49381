package cert

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// JoinProtocol is the protocol, in the TLS handshake, of a node that has no certificate yet.
const JoinProtocol = "vmferry-join/1"

const (
	tokensFolder = "tokens"
	tokenBytes   = 32
	joinTime     = 10 * time.Second // of one exchange
	mostJoin     = 64 << 10         // bytes of a request and of an answer
	// StandardTokenLife is how long a token may be used.
	StandardTokenLife = time.Hour
)

// grant is what a token allows. Its file is named by the digest of the secret.
type grant struct {
	Name    string        `json:"name"`
	Role    string        `json:"role"`
	Expires time.Time     `json:"expires"`
	Life    time.Duration `json:"life"`
}

type (
	joinRequest struct {
		Secret  string `json:"secret"`
		Request string `json:"request"` // PKCS #10, PEM; only its key counts
	}
	joinAnswer struct {
		Node      string `json:"node,omitempty"` // certificates, PEM
		Authority string `json:"authority,omitempty"`
		Revoked   string `json:"revoked,omitempty"`
		Error     string `json:"error,omitempty"`
		Next      string `json:"next,omitempty"`
	}
)

// Token makes a token with which one node may fetch one certificate of the name and role, within expires. The authority
// keeps only its digest. The token also has the digest of the authority's certificate, so that the node knows whom to
// trust.
func (a *Authority) Token(name, role string, expires, life time.Duration) (job.Secret, error) {
	if err := errors.Join(CheckName(name), CheckRole(role)); err != nil {
		return job.Secret{}, err
	}
	dir := filepath.Join(a.dir, tokensFolder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return job.Secret{}, job.SystemError("make token", nextFolder, err)
	}
	secret := make([]byte, tokenBytes)
	if _, err := rand.Read(secret); err != nil {
		return job.Secret{}, fmt.Errorf("make token: %w", err)
	}
	text, err := json.Marshal(grant{name, role, a.now().Add(expires), life})
	if err != nil {
		return job.Secret{}, fmt.Errorf("make token: %w", err)
	}
	if err := writeNew(filepath.Join(dir, digestOf(secret)), text, 0o600); err != nil {
		return job.Secret{}, err
	}
	trust := sha256.Sum256(a.cert.Raw)
	return job.NewSecret(base64.RawURLEncoding.EncodeToString(secret) + "." +
		base64.RawURLEncoding.EncodeToString(trust[:])), nil
}

func digestOf(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:])
}

const nextToken = "Make a new token with vmferry node token"

// take uses a token up. Who removes its file is the one who has it; the removal is durable before anything is signed.
func (a *Authority) take(secret []byte) (grant, error) {
	const op = "use token"
	unknown := job.Errorf(op, job.Auth, nextToken, "the token is not known, was used, or has expired")
	path := filepath.Join(a.dir, tokensFolder, digestOf(secret))
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return grant{}, unknown
	}
	if err != nil {
		return grant{}, job.SystemError(op, nextToken, err)
	}
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return grant{}, unknown
	} else if err != nil {
		return grant{}, job.SystemError(op, nextToken, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return grant{}, job.SystemError(op, nextToken, err)
	}
	var g grant
	if err := json.Unmarshal(text, &g); err != nil {
		return grant{}, job.Errorf(op, job.Corrupt, nextToken, "%w", err)
	}
	if !a.now().Before(g.Expires) {
		return grant{}, unknown
	}
	return g, nil
}

// JoinServer is the configuration for nodes that have no certificate yet: the server shows the authority's certificate
// after its own.
func (n *Node) JoinServer() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{JoinProtocol}, SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			m := n.current()
			pair := *m.pair
			pair.Certificate = [][]byte{m.pair.Certificate[0], m.authorities[0].Raw}
			return &pair, nil
		},
	}
}

// Serve answers one node that wants its certificate, and returns the node's name. Errors are for the log; the node has
// got one without details.
func (a *Authority) Serve(c net.Conn) (name string, err error) {
	if err := c.SetDeadline(time.Now().Add(joinTime)); err != nil {
		return "", err
	}
	var r joinRequest
	if err := json.NewDecoder(io.LimitReader(c, mostJoin)).Decode(&r); err != nil {
		return "", job.Errorf("join node", job.Invalid, "Use vmferry node join", "not a request: %w", err)
	}
	answer, name, err := a.admit(r)
	if err != nil {
		answer = joinAnswer{Error: err.Error(), Next: job.NextOf(err)}
		if k := job.KindOf(err); k != job.Auth && k != job.Invalid {
			answer = joinAnswer{Error: "the authority has failed to make the certificate", Next: nextToken}
		}
	}
	return name, errors.Join(err, json.NewEncoder(c).Encode(answer))
}

func (a *Authority) admit(r joinRequest) (joinAnswer, string, error) {
	const op = "join node"
	block, _ := pem.Decode([]byte(r.Request))
	if block == nil {
		return joinAnswer{}, "", job.Errorf(op, job.Invalid, "Use vmferry node join", "the request has no key")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = csr.CheckSignature()
	}
	if err != nil {
		return joinAnswer{}, "", job.Errorf(op, job.Invalid, "Use vmferry node join", "%w", err)
	}
	if _, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok {
		return joinAnswer{}, "", job.Errorf(op, job.Invalid, "Use vmferry node join", "the key is not of kind ECDSA")
	}
	secret, err := base64.RawURLEncoding.DecodeString(r.Secret)
	if err != nil {
		return joinAnswer{}, "", job.Errorf(op, job.Auth, nextToken, "this is not a token")
	}
	g, err := a.take(secret)
	if err != nil {
		return joinAnswer{}, "", err
	}
	node, err := a.issue(g.Name, g.Role, csr.PublicKey, g.Life)
	if err != nil {
		return joinAnswer{}, g.Name, err
	}
	authority, revoked, err := a.public()
	return joinAnswer{Node: string(node), Authority: string(authority), Revoked: string(revoked)}, g.Name, err
}

// Join fetches the certificate of this node from the node at address, host:port, and writes its files to a folder,
// which is made with mode 0700 if it is not there. The key is made here and does not leave this machine. Errors are of
// kind Auth (the token is of no use, or the other end is not the one that made it) and Unavailable.
func Join(ctx context.Context, address string, token job.Secret, dir string) (Identity, error) {
	secret, trust, err := splitToken(token)
	if err != nil {
		return Identity{}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Identity{}, job.SystemError("make the node's folder", nextFolder, err)
	}
	key, err := newKey()
	if err != nil {
		return Identity{}, err
	}
	a, authority, err := ask(ctx, address, secret, trust, key)
	if err != nil {
		return Identity{}, err
	}
	id, err := a.check(authority, key)
	if err != nil {
		return Identity{}, err
	}
	var revoked []byte
	if a.Revoked != "" {
		revoked = []byte(a.Revoked)
	}
	return id, install(dir, key, []byte(a.Node), []byte(a.Authority), revoked)
}

func splitToken(token job.Secret) (secret string, trust []byte, err error) {
	secret, digest, ok := strings.Cut(strings.TrimSpace(token.Reveal()), ".")
	trust, bad := base64.RawURLEncoding.DecodeString(digest)
	if !ok || secret == "" || bad != nil || len(trust) != sha256.Size {
		return "", nil, job.Errorf("read token", job.Invalid, "Copy the whole line that vmferry node token has written",
			"this is not a token")
	}
	return secret, trust, nil
}

// ask sends the request for a certificate to the node that has shown the trusted authority's certificate.
func ask(ctx context.Context, address, secret string, trust []byte, key *ecdsa.PrivateKey) (
	a joinAnswer, authority *x509.Certificate, err error,
) {
	const op = "join node"
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return a, nil, fmt.Errorf("%s: %w", op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, joinTime)
	defer cancel()
	dialer := tls.Dialer{Config: &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{JoinProtocol},
		InsecureSkipVerify: true, //nolint:gosec // the token says whom to trust; see VerifyConnection
		VerifyConnection: func(cs tls.ConnectionState) (err error) {
			authority, err = trusted(cs.PeerCertificates, trust)
			return err
		},
	}}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if job.KindOf(err) == job.Auth {
		return a, nil, err
	}
	if err != nil {
		return a, nil, job.Errorf(op, job.Unavailable, "Check the address; the node there needs link.listen, and the "+
			"authority's key in its folder link.certificates", "%w", err)
	}
	defer c.Close() //nolint:errcheck // read only from here
	if t, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(t); err != nil {
			return a, nil, err
		}
	}
	r := joinRequest{secret, string(pemOf("CERTIFICATE REQUEST", csr))}
	if err := json.NewEncoder(c).Encode(r); err != nil { //nolint:gosec // the secret is for the other end of TLS
		return a, nil, job.Errorf(op, job.Unavailable, nextToken, "%w", err)
	}
	if err := json.NewDecoder(io.LimitReader(c, mostJoin)).Decode(&a); err != nil {
		return a, nil, job.Errorf(op, job.Unavailable, nextToken, "no answer: %w", err)
	}
	if a.Error != "" {
		return a, nil, job.Errorf(op, job.Auth, a.Next, "%s", a.Error)
	}
	return a, authority, nil
}

// trusted finds the certificate with the digest among those that the other end has shown, and verifies the first one
// with it: an OMA must have it.
func trusted(shown []*x509.Certificate, digest []byte) (*x509.Certificate, error) {
	const op = "verify certificate"
	for _, c := range shown {
		if sum := sha256.Sum256(c.Raw); string(sum[:]) != string(digest) {
			continue
		}
		id, err := trusting(c).verify(shown[0], nil, "")
		if err == nil && id.Role != OMA {
			err = job.Errorf(op, job.Auth, "Use the address of the OMA", "node %s is no OMA", id.Name)
		}
		return c, err
	}
	return nil, job.Errorf(op, job.Auth, "Check the address: another machine answers there",
		"the other end is not the node that has made the token")
}

// check verifies that the answer is a certificate for this key, of the trusted authority.
func (a joinAnswer) check(authority *x509.Certificate, key *ecdsa.PrivateKey) (Identity, error) {
	const op = "check the answer"
	bad := func(format string, args ...any) error {
		return job.Errorf(op, job.Auth, nextToken, format, args...)
	}
	block, _ := pem.Decode([]byte(a.Node))
	if block == nil {
		return Identity{}, bad("it has no certificate")
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return Identity{}, bad("%w", err)
	}
	if !isFor(leaf, key.Public()) {
		return Identity{}, bad("the certificate is for another key")
	}
	return trusting(authority).verify(leaf, nil, "")
}
