package volumes

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/nbd"
)

// place is where the bytes of a target lie. Two names that lead to one thing have a common place.
type place struct {
	own     []string // each of them is the thing itself
	beneath []string // devices that hold its bytes: the disk of a partition, what a device mapper device is made of
}

// overlaps says whether writing to one may change the other.
func (p place) overlaps(q place) bool {
	common := func(a, b []string) bool {
		return slices.ContainsFunc(a, func(s string) bool { return slices.Contains(b, s) })
	}
	return common(p.own, q.own) || common(p.own, q.beneath) || common(p.beneath, q.own)
}

// placeOf finds out where a target lies, by its name and without opening it. What does not exist yet lies in the
// nearest folder above it that does.
func placeOf(target string) (place, error) {
	switch {
	case target == nbd.NullName:
		return place{}, nil
	case nbd.IsURI(target):
		return place{own: []string{"export " + canonical(target)}}, nil
	}
	path, err := resolve(target)
	if err != nil {
		return place{}, err
	}
	missing := ""
	for {
		var st unix.Stat_t
		err := unix.Stat(path, &st)
		switch {
		case err == nil && missing == "" && st.Mode&unix.S_IFMT == unix.S_IFBLK:
			return sysDevice(st.Rdev).place(devno(st.Rdev)), nil
		case err == nil:
			return place{own: []string{fmt.Sprintf("file %s:%d%s", devno(st.Dev), st.Ino, missing)}}, nil
		case err != unix.ENOENT && err != unix.ENOTDIR || path == "/":
			return place{}, &os.PathError{Op: "stat", Path: path, Err: err}
		}
		path, missing = filepath.Dir(path), "/"+filepath.Base(path)+missing
	}
}

// place is where a device lies. The backing file, or device, of a loop device is the loop device: whoever writes to one
// writes to the other.
func (d sysfs) place(number string) place {
	p := place{own: []string{"device " + number}}
	if s := d.serial(); s != "" {
		p.own = append(p.own, "disk "+s)
	}
	if path := d.read("loop/backing_file"); path != "" {
		var st unix.Stat_t
		switch err := unix.Stat(path, &st); {
		case err != nil: // it has no name any more
		case st.Mode&unix.S_IFMT == unix.S_IFBLK:
			under := sysDevice(st.Rdev).place(devno(st.Rdev))
			p.own, p.beneath = append(p.own, under.own...), under.beneath
		default:
			p.own = append(p.own, fmt.Sprintf("file %s:%d", devno(st.Dev), st.Ino))
		}
	}
	p.beneath = append(p.beneath, d.below(4)...)
	return p
}

// below are the devices that hold the bytes of d, at most depth deep.
func (d sysfs) below(depth int) (out []string) {
	if depth == 0 {
		return nil
	}
	folder, err := filepath.EvalSymlinks(string(d))
	if err != nil {
		return nil
	}
	var down []string
	if d.partition() {
		down = append(down, filepath.Dir(folder))
	}
	slaves, err := filepath.Glob(filepath.Join(folder, "slaves", "*"))
	if err == nil {
		down = append(down, slaves...)
	}
	for _, under := range down {
		b := sysfs(under)
		out = append(out, "device "+b.read("dev"))
		if s := b.serial(); s != "" {
			out = append(out, "disk "+s)
		}
		out = append(out, b.below(depth-1)...)
	}
	return out
}

// canonical writes an NBD URI so that two ways to write one are equal; what is no URI stays as it is.
func canonical(uri string) string {
	if c, err := nbd.CanonicalURI(uri); err == nil {
		return c
	}
	return uri
}
