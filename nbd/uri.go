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

const nullName = "null:"

func schemes() []string {
	return []string{"nbd", "nbds", "nbd+unix", "nbds+unix", "nbd+vsock", "nbds+vsock"}
}

// isURI says whether the name is meant as a URI: a scheme and a colon before any slash.
func isURI(name string) bool {
	scheme, _, ok := strings.Cut(name, ":")
	return ok && scheme != "" && !strings.ContainsAny(scheme, "/.")
}

// parseURI accepts the documented schemes only.
func parseURI(name string) (*url.URL, error) {
	const op = "read NBD URI"
	u, err := url.Parse(name)
	if err != nil {
		return nil, job.Errorf(op, job.Invalid, "", "%q is not a URI", Redact(name))
	}
	if !slices.Contains(schemes(), u.Scheme) {
		return nil, job.Errorf(op, job.Invalid, "Use one of "+strings.Join(schemes(), ", ")+", or a path.", "scheme %q is not one of NBD", u.Scheme)
	}
	if strings.HasSuffix(u.Scheme, "+unix") && u.Query().Get("socket") == "" {
		return nil, job.Errorf(op, job.Invalid, "Write it as nbd+unix:///?socket=/path/of/socket", "%q names no socket", Redact(name))
	}
	return u, nil
}

// Redact returns the name of a device without a password that its URI may hold, for people and logs.
func Redact(name string) string {
	if !isURI(name) {
		return name
	}
	u, err := url.Parse(name)
	if err != nil {
		scheme, _, _ := strings.Cut(name, ":")
		return scheme + ":(unreadable)"
	}
	return u.Redacted()
}
