package nbd

import (
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/vmferry/vmferry/job"
)

// Kind says what sort of device a source or target is.
type Kind string

// The kinds of devices.
const (
	File  Kind = "file"  // a regular file
	Block Kind = "block" // a local block device
	NBD   Kind = "nbd"   // an export of an NBD server
	Null  Kind = "null"  // takes everything, keeps nothing
)

// NullName is the name of the target that takes everything and keeps nothing.
const NullName = "null:"

func schemes() []string {
	return []string{"nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock"}
}

// IsURI says whether the name is meant as a URI: a scheme and a colon before any slash.
func IsURI(name string) bool {
	scheme, _, ok := strings.Cut(name, ":")
	return ok && scheme != "" && !strings.ContainsAny(scheme, "/.")
}

// SocketURI names the default export of a server on a unix socket.
func SocketURI(path string) string {
	// Not as in forms: libnbd takes a plus for a plus.
	return "nbd+unix:///?socket=" + strings.ReplaceAll(url.QueryEscape(path), "+", "%20")
}

// ParseURI accepts the documented schemes only.
func ParseURI(name string) (*url.URL, error) {
	const op = "read NBD URI"
	u, err := url.Parse(name)
	if err != nil || u.Opaque != "" || !strings.Contains(name, "://") || strings.ContainsRune(u.Path, 0) {
		return nil, job.Errorf(op, job.Invalid, "Write it as in nbd://host/export", "%q is not a URI", Redact(name))
	}
	if !slices.Contains(schemes(), u.Scheme) {
		return nil, job.Errorf(op, job.Invalid, "Use one of "+strings.Join(schemes(), ", ")+", or a path",
			"scheme %q is not one of NBD", u.Scheme)
	}
	if parameters, err := URIParameters(u); err != nil || strings.HasSuffix(u.Scheme, "+unix") &&
		parameters["socket"] == "" {
		return nil, job.Errorf(op, job.Invalid, "Write it as nbd+unix:///?socket=/path/of/socket",
			"%q does not name one socket", Redact(name))
	}
	return u, nil
}

// CanonicalURI is the same text for all ways to write the URI of one export: the name of the export, and the server by
// host and port, by CID and port, or by the place of its socket after symbolic links are followed. It holds no secret
// and names no user and no file with keys; with TLS and without it is the same export. This machine is localhost. Two
// names of one host in DNS stay two. Errors: Invalid for what is no NBD URI.
func CanonicalURI(uri string) (string, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return "", err
	}
	out := url.URL{Scheme: strings.Replace(u.Scheme, "nbds", "nbd", 1), Path: "/" + strings.TrimPrefix(u.Path, "/")}
	if !strings.HasSuffix(u.Scheme, "+unix") {
		out.Host, err = canonicalHost(u)
		return out.String(), err
	}
	parameters, err := URIParameters(u)
	if err != nil {
		return "", err
	}
	socket, err := followLinks(parameters["socket"])
	if err != nil {
		return "", fail("read NBD URI", err)
	}
	out.RawQuery = "socket=" + strings.ReplaceAll(url.QueryEscape(socket), "+", "%20")
	return out.String(), nil
}

const standardPort = "10809"

// canonicalHost is host and port.
func canonicalHost(u *url.URL) (string, error) {
	host, port := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port()
	if strings.HasSuffix(u.Scheme, "+vsock") {
		if host == "" {
			host = "2" // the hypervisor
		}
	} else if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap()
		host = a.String()
		if a == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || a == netip.IPv6Loopback() {
			host = ""
		}
	}
	if host == "" {
		host = "localhost"
	}
	if port == "" {
		port = standardPort
	}
	n, err := strconv.ParseUint(port, 10, 32)
	if err != nil {
		return "", job.Errorf("read NBD URI", job.Invalid, "", "%q is not a port", port)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

// followLinks is a path without symbolic links, as far as it exists.
func followLinks(path string) (string, error) {
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = dir + "/" + path // not filepath.Abs: it would take ".." away before links are followed
	}
	missing := ""
	for path != "" && path != "/" {
		place, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(place, missing), nil
		}
		dir, base := filepath.Split(path)
		path, missing = strings.TrimRight(dir, "/"), filepath.Join(base, missing)
	}
	return filepath.Join("/", missing), nil
}

// URIParameters reads the parameters of a URI as libnbd does, which is not as in forms: a plus is a plus. Where libnbd
// could understand something else than we do, it is an error.
func URIParameters(u *url.URL) (map[string]string, error) {
	out := map[string]string{}
	if u.RawQuery == "" {
		return out, nil
	}
	for pair := range strings.SplitSeq(u.RawQuery, "&") {
		rawKey, rawValue, _ := strings.Cut(pair, "=")
		key, errKey := url.PathUnescape(rawKey)
		value, errValue := url.PathUnescape(rawValue)
		if _, twice := out[key]; twice || errKey != nil || errValue != nil || strings.ContainsAny(pair, ";") ||
			strings.ContainsRune(value, 0) ||
			key != strings.ToLower(key) {
			return nil, job.Errorf("read NBD URI", job.Invalid, "", "its parameters are ambiguous")
		}
		out[key] = value
	}
	return out, nil
}

// Redact returns the name of a device without a password that its URI may hold, for people and logs.
func Redact(name string) string {
	if !IsURI(name) {
		return name
	}
	u, err := url.Parse(name)
	if err != nil {
		scheme, _, _ := strings.Cut(name, ":")
		return scheme + ":(unreadable)"
	}
	return u.Redacted()
}
