package nbd

import (
	"net/url"
	"slices"
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
	if err != nil || u.Opaque != "" || !strings.Contains(name, "://") {
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

// CanonicalURI is a stand-in until the room nbd has it.
func CanonicalURI(uri string) (string, error) { return uri, nil }
