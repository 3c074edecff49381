package nbd

import (
	"bytes"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"libguestfs.org/libnbd"

	"github.com/vmferry/vmferry/job"
)

// TLS says by what the server of an nbds URI proves who it is. The zero value takes no proof, so such a URI is refused.
// It says nothing about other URIs, whose servers are believed as they are.
type TLS struct {
	// Certificates is a folder with ca-cert.pem, the certificates of the authorities that are trusted. client-cert.pem
	// and client-key.pem are shown to servers that ask for them. The server's certificate must be for its host as the
	// URI has it.
	Certificates string
	// PSKFile is a file with a line USER:KEY, of which the server has the same. With several lines, URIs name the user.
	PSKFile string
	// Unverified takes any certificate. Whoever answers at the address then gets the bytes, or makes them up.
	Unverified bool
}

const (
	caFile    = "ca-cert.pem"
	certFile  = "client-cert.pem"
	keyFile   = "client-key.pem"
	mostKeys  = 1 << 20 // bytes of a file with keys
	othersMay = 0o007   // what other users may do with it

	nextTLS = "Name the folder with " + caFile + " or the file with a key: --tls-certificates or --tls-psk of a " +
		"copy; source.tls_certificates, source.tls_psk_file, targets.tls_certificates or targets.tls_psk_file of " +
		"the daemon"
)

// Check refuses what cannot be used, with an error of kind Invalid, or of the kind of the kernel's answer.
func (t TLS) Check() error {
	const op = "check TLS"
	switch {
	case t.PSKFile != "" && t.Certificates != "":
		return job.Errorf(op, job.Invalid, "Name one of them", "certificates and a key of one's own exclude each other")
	case t.PSKFile != "" && t.Unverified:
		return job.Errorf(op, job.Invalid, "Leave out that servers need not be verified",
			"a server without the key is not let in anyway")
	case t.PSKFile != "":
		_, err := readKeys(t.PSKFile)
		return err
	case t.Certificates != "":
		return t.checkCertificates(op)
	default:
		return nil
	}
}

func (t TLS) checkCertificates(op string) error {
	_, err := os.Stat(filepath.Join(t.Certificates, caFile))
	if err != nil && (!t.Unverified || !errors.Is(err, os.ErrNotExist)) {
		return job.SystemError(op, "Put the certificate of the authority that signs the servers' into "+
			filepath.Join(t.Certificates, caFile), err)
	}
	_, cert := os.Stat(filepath.Join(t.Certificates, certFile))
	_, key := os.Stat(filepath.Join(t.Certificates, keyFile))
	if (cert == nil) != (key == nil) {
		return job.Errorf(op, job.Invalid, "Put both "+certFile+" and "+keyFile+" there, or neither",
			"of %s and %s, only one is in %s", certFile, keyFile, t.Certificates)
	}
	return nil
}

// Covers refuses an nbds URI whose server could not be verified, and any URI that itself says something about TLS: who
// asks for a copy does not choose what is believed. Errors: Invalid, Permission for such a parameter, or of the kind of
// what the kernel answers about the file with keys.
func (t TLS) Covers(uri string) error {
	u, err := ParseURI(uri)
	if err != nil {
		return err
	}
	const op = "check TLS"
	parameters, err := URIParameters(u)
	if err != nil {
		return err
	}
	for name := range parameters {
		if strings.HasPrefix(name, "tls-") {
			return job.Errorf(op, job.Permission, "Leave it out. "+nextTLS, "a URI has no parameter %s here", name)
		}
	}
	if !isTLS(u) {
		return nil
	}
	switch {
	case t.PSKFile != "":
		_, err := t.user(u)
		return err
	case t.Unverified:
		return nil
	case t.Certificates == "":
		return job.Errorf(op, job.Invalid, nextTLS, "nothing would tell whether the server of %s is the right one",
			Redact(uri))
	case u.Hostname() == "" || strings.HasSuffix(u.Scheme, "+unix") || strings.HasSuffix(u.Scheme, "+vsock"):
		return job.Errorf(op, job.Invalid, "Use a key that both sides have instead of certificates",
			"a certificate names a host, and %s has none", Redact(uri))
	default:
		return nil
	}
}

func isTLS(u *url.URL) bool { return strings.HasPrefix(u.Scheme, "nbds") }

// user is who we are to a server that has the same key.
func (t TLS) user(u *url.URL) (string, error) {
	const op = "check TLS"
	users, err := readKeys(t.PSKFile)
	if err != nil {
		return "", err
	}
	name := u.User.Username()
	if name == "" && len(users) == 1 {
		return users[0], nil
	}
	if name != "" && slices.Contains(users, name) {
		return name, nil
	}
	if name == "" {
		return "", job.Errorf(op, job.Invalid, "Keep one line in the file, or write the user into the URI",
			"%s has keys of %d users", t.PSKFile, len(users))
	}
	return "", job.Errorf(op, job.Invalid, "Name a user who has a key in the file", "%s has no key of user %s",
		t.PSKFile, name)
}

// readKeys returns the users that a file has keys of.
func readKeys(path string) (users []string, err error) {
	const op, next = "read the file with TLS keys", "Write a line USER:KEY as psktool does, in a file with mode 0600"
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, job.SystemError(op, next, err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, job.SystemError(op, next, err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&othersMay != 0 {
		return nil, job.Errorf(op, job.Invalid, "Type: chmod 0600 "+path,
			"%s is open to every user of this machine, or no regular file (mode %v)", path, info.Mode())
	}
	text, err := io.ReadAll(io.LimitReader(f, mostKeys))
	if err != nil {
		return nil, job.SystemError(op, next, err)
	}
	for l := range bytes.Lines(text) {
		user, key, ok := bytes.Cut(bytes.TrimSpace(l), []byte(":"))
		if len(user) > 0 && user[0] != '#' && ok && len(key) > 0 {
			users = append(users, string(user))
		}
	}
	if len(users) == 0 {
		return nil, job.Errorf(op, job.Invalid, next, "%s has no line with a user and a key", path)
	}
	return users, nil
}

// apply prepares a handle for a URI. Each connection to an export is made with a handle that it prepared.
func (t TLS) apply(h *libnbd.Libnbd, uri string) error {
	if err := t.Covers(uri); err != nil {
		return err
	}
	u, err := ParseURI(uri)
	if err != nil || !isTLS(u) {
		return err
	}
	if t.PSKFile != "" {
		user, err := t.user(u)
		if err != nil {
			return err
		}
		return errors.Join(h.SetTls(libnbd.TLS_REQUIRE), h.SetTlsPskFile(t.PSKFile), h.SetTlsUsername(user))
	}
	if t.Certificates != "" {
		err = h.SetTlsCertificates(t.Certificates)
	}
	return errors.Join(err, h.SetTls(libnbd.TLS_REQUIRE), h.SetTlsVerifyPeer(!t.Unverified))
}

// failure turns what libnbd and GnuTLS say during a handshake with that URI's server into what it means; nil if it is
// not about TLS. Their texts are the only sign of the reason that they give.
func (t TLS) failure(uri string, err error) error {
	const op = "agree on TLS"
	host := ""
	if u, err := ParseURI(uri); err == nil {
		host = u.Hostname()
	}
	text := strings.TrimPrefix(err.Error(), (&lostError{errors.New("")}).Error())
	has := func(part string) bool { return strings.Contains(text, part) }
	switch {
	case has("server requires TLS"):
		return job.Errorf(op, job.Unsupported, "Write nbds instead of nbd in its URI", "the server takes only TLS")
	case has("TLS setting is"):
		return job.Errorf(op, job.Unsupported, "Start the server with TLS, as in nbdkit --tls=require",
			"the server has no TLS: %s", text)
	case has("certificate verification"):
		return job.Errorf(op, job.Auth, "Put the certificate of the server's authority into "+
			filepath.Join(t.Certificates, caFile)+", and use a URI with a host that the server's certificate is for",
			"the server's certificate is not verified: its authority is not known, it is not for %s, or it has expired",
			host)
	case has("Insufficient credentials"), has("No supported cipher suites"), has("handshake failed"):
		return job.Errorf(op, job.Auth, "Use certificates for a server with certificates, a key for one with keys",
			"server and client have no way in common to prove who they are: %s", text)
	case t.PSKFile != "" && has("gnutls_handshake"):
		return job.Errorf(op, job.Auth, "Give both sides the same line USER:KEY",
			"the server does not take the key: %s", text)
	case has("alert"):
		return job.Errorf(op, job.Auth, t.nextForClient(), "the server ends the handshake: %s", text)
	case has("gnutls_record"):
		return job.Errorf(op, job.Unavailable, t.nextForClient(),
			"the server closed the connection after the handshake: %s", text)
	case has("gnutls"):
		return job.Errorf(op, job.Auth, "Check the files of certificates and keys", "%s", text)
	default:
		return nil
	}
}

// nextForClient is the next step where a server may want to know who we are.
func (t TLS) nextForClient() string {
	return "Look at the server's log. If it asks clients for certificates, put one that it trusts into " + certFile +
		" and " + keyFile + " of the folder of certificates"
}
