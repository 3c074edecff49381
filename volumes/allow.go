package volumes

import (
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Allow is what may be a target. The zero value allows nothing.
type Allow struct {
	// Roots are folders: files and block devices at or below them are allowed, after symbolic links are followed.
	Roots []string
	// URIs are patterns for NBD targets: scheme and host[:port] must be equal, and for unix sockets the socket must lie
	// at or below the pattern's. As in nbds://storage.example or nbd+unix:///?socket=/run/vmferry
	URIs []string
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
	for _, pattern := range a.URIs {
		if p, err := url.Parse(pattern); err == nil && matches(u, p) {
			return nil
		}
	}
	return job.Errorf(op, job.Permission, "Name an allowed target, or add it to targets.uris in the configuration",
		"%s is not one of the allowed URIs", nbd.Redact(target))
}

// matches compares what decides where bytes go. Parameters that name files or other sockets are not let through.
func matches(u, pattern *url.URL) bool {
	if u.Scheme != pattern.Scheme || !strings.EqualFold(u.Host, pattern.Host) || u.User != nil {
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
	allowed, err := nbd.URIParameters(pattern)
	if err != nil {
		return false
	}
	socket, errSocket := resolve(parameters["socket"])
	root, errRoot := resolve(allowed["socket"])
	return errSocket == nil && errRoot == nil && below(socket, root)
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
