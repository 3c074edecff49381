package volumes

import (
	"errors"
	"io/fs"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Allow is what may be a target. The zero value allows nothing.
type Allow struct {
	// Roots are folders: files and block devices at or below them are allowed, after symbolic links are followed.
	Roots []string
	// URIs are patterns for NBD targets; CheckURIs says what can be one. Scheme, host and port must be equal, with
	// 10809 for a port that is not named, and for unix sockets the socket must lie at or below the pattern's. A pattern
	// without an export, as nbds://storage.example or nbd+unix:///?socket=/run/vmferry, allows all exports of the
	// server. One that ends in / or * allows those whose names begin with what comes before; after a / also with it.
	// Names with a step .. are not among those. Any other allows the one export that it names.
	URIs []string
	// TLS verifies the servers of targets of scheme nbds.
	TLS nbd.TLS
}

// Check says whether target is allowed. The error is of kind Permission, or Invalid if the target cannot be understood.
// It looks at the file system at the time of the call.
func (a Allow) Check(target string) error {
	_, err := a.locate(target)
	return err
}

// locate is Check, and says where a local target lies.
func (a Allow) locate(target string) (spot, error) {
	const op = "check target"
	if strings.ContainsRune(target, 0) || target == "" || target == "-" {
		return spot{}, job.Errorf(op, job.Invalid, "Name a file, a block device or an NBD URI",
			"%q does not name a target", target)
	}
	if nbd.IsURI(target) {
		return spot{}, a.checkURI(op, target)
	}
	path, err := resolve(target)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return spot{}, job.Errorf(op, job.Invalid, "Name another folder", "a file is where %s has a folder", target)
	case err != nil:
		return spot{}, nbd.Classify(op, err)
	}
	device := isDevice(path)
	for _, root := range a.Roots {
		r, err := resolve(root)
		switch {
		case err != nil:
		case device && (below(path, r) || linkedIn(target, r)):
			return spot{path: path}, nil
		case !device && below(path, r):
			return spot{path: path, root: r}, nil
		}
	}
	return spot{}, job.Errorf(op, job.Permission,
		"Name a target below one of the allowed roots, or add its folder to targets.roots in the configuration",
		"%s is not below any of the allowed roots", target)
}

func isDevice(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeDevice != 0 && info.Mode()&os.ModeCharDevice == 0
}

// linkedIn says whether a device is named by a link in root, a folder of /dev. Names such as /dev/disk/by-id/x and
// /dev/vg/lv lead out of their folder, and only the administrator makes them.
func linkedIn(target, root string) bool {
	if !below(root, "/dev") || strings.Contains(target, "..") {
		return false
	}
	folder, err := resolve(filepath.Dir(target))
	return err == nil && below(folder, root)
}

func (a Allow) checkURI(op, target string) error {
	u, err := nbd.ParseURI(target)
	if err != nil {
		return err
	}
	for _, text := range a.URIs {
		if p, err := parsePattern(text); err == nil && p.allows(u) {
			return a.TLS.Covers(target)
		}
	}
	if err := a.TLS.Covers(target); job.KindOf(err) == job.Permission {
		return err // it names a parameter that no URI may have
	}
	return job.Errorf(op, job.Permission, "Name an allowed target, or add it to targets.uris in the configuration",
		"%s is not one of the allowed URIs", nbd.Redact(target))
}

// CheckURIs refuses patterns that can't allow anything, with an error of kind Invalid. notes say, for each pattern that
// names one export, that versions before it allowed all of that server, and for each of TLS that nothing verifies it.
func (a Allow) CheckURIs() (notes []string, err error) {
	for _, text := range a.URIs {
		p, err := parsePattern(text)
		if err != nil {
			return nil, err
		}
		if p.export != "" {
			notes = append(notes, nbd.Redact(text)+" allows only what it names; earlier versions of vmferry "+
				"allowed all exports of that server, which is written without a name")
		}
		if strings.HasPrefix(p.scheme, "nbds") && a.TLS == (nbd.TLS{}) {
			notes = append(notes, nbd.Redact(text)+" allows nothing: neither targets.tls_certificates nor "+
				"targets.tls_psk_file says how to verify its server, and targets.tls_unverified is not set")
		}
	}
	return notes, nil
}

// pattern is one of the allowed URIs.
type pattern struct {
	scheme, server string
	socket         string // as it is written; of a unix socket
	export         string // "" for all
	begins         bool   // export is how names begin
}

func parsePattern(text string) (pattern, error) {
	u, err := nbd.ParseURI(text)
	if err != nil {
		return pattern{}, err
	}
	p := pattern{scheme: u.Scheme}
	if p.server, err = serverOf(u); err != nil {
		return pattern{}, err
	}
	parameters, err := nbd.URIParameters(u)
	if err != nil {
		return pattern{}, err
	}
	p.socket, p.export = parameters["socket"], exportOf(u)
	switch {
	case p.export == "*":
		p.export = ""
	case strings.HasSuffix(u.EscapedPath(), "*"):
		p.export, p.begins = strings.TrimSuffix(p.export, "*"), true
	case strings.HasSuffix(p.export, "/"):
		p.begins = true
	}
	return p, nil
}

// allows compares what decides where bytes go. Users and parameters that name files are not let through.
func (p pattern) allows(u *url.URL) bool {
	server, err := serverOf(u)
	if err != nil || u.Scheme != p.scheme || server != p.server || u.User != nil || !p.names(exportOf(u)) {
		return false
	}
	unix := strings.HasSuffix(u.Scheme, "+unix")
	parameters, err := nbd.URIParameters(u)
	if err != nil {
		return false
	}
	for key := range parameters {
		if key != "socket" || !unix {
			return false
		}
	}
	if !unix {
		return true
	}
	socket, errSocket := resolve(parameters["socket"])
	root, errRoot := resolve(p.socket)
	return errSocket == nil && errRoot == nil && below(socket, root)
}

// names says whether the pattern is for an export of that name.
func (p pattern) names(export string) bool {
	switch {
	case p.export == "":
		return true
	case !p.begins:
		return export == p.export
	default:
		// A server that takes names for paths would leave the folder.
		return strings.HasPrefix(export, p.export) && !slices.Contains(strings.Split(export, "/"), "..")
	}
}

// exportOf is the name that a server is asked for, as libnbd reads it.
func exportOf(u *url.URL) string { return strings.TrimPrefix(u.Path, "/") }

// serverOf is host and port, "" for a unix socket. Two addresses of one host are two servers here, as are a name and
// its address.
func serverOf(u *url.URL) (string, error) {
	if strings.HasSuffix(u.Scheme, "+unix") {
		return "", nil
	}
	host, port, bits := strings.TrimSuffix(strings.ToLower(u.Hostname()), "."), u.Port(), 16
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.String()
	}
	standard := "localhost"
	if strings.HasSuffix(u.Scheme, "+vsock") {
		standard, bits = "2", 32 // the hypervisor
	}
	if host == "" {
		host = standard
	}
	if port == "" {
		port = "10809"
	}
	n, err := strconv.ParseUint(port, 10, bits)
	if err != nil {
		return "", job.Errorf("read NBD URI", job.Invalid, "Name a port that can be", "%q is not a port", port)
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

// resolve makes a path absolute and follows symbolic links as the kernel would, ".." after a link included. What comes
// last need not exist yet; it may hold no "..".
func resolve(path string) (string, error) {
	if path == "" {
		return "", job.Errorf("resolve path", job.Invalid, "", "it is empty")
	}
	if !strings.HasPrefix(path, "/") {
		dir, err := os.Getwd()
		if err != nil {
			return "", err
		}
		path = dir + "/" + path // not filepath.Abs: it would take ".." away before links are followed
	}
	missing := ""
	for {
		place, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(place, missing), nil
		}
		dir, base := filepath.Split(path)
		if base == "" || base == "." || base == ".." || isLink(path) || !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		path, missing = strings.TrimRight(dir, "/"), filepath.Join(base, missing)
		if path == "" {
			path = "/"
		}
	}
}

// below says whether path is root or lies in it.
func below(path, root string) bool {
	return path == root || root == "/" || strings.HasPrefix(path, root+"/")
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}
