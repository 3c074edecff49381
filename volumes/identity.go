package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/nbd"
)

// identity says which volume something is: facts that were asked of the open file, of the device, or of the server.
// What holds for one boot only is kept with the boot's id. A fact that is not known is empty.
//
// Its stored form is text: the kind, and key=value for each fact.
type identity struct {
	kind nbd.Kind

	// of a file
	inode, born string // born is when the inode was made, ns since 1970
	fs          string // UUID of the file system
	mark        string // ours, as an extended attribute

	// of a block device
	dm     string // UUID of a device mapper device
	wwid   string // of a disk, or its serial number
	loop   string // of a loop device: the identity of its backing file
	window string // likewise: which part of the file
	seq    string // diskseq: a number that the kernel gives to no other disk of this boot

	dev  string // major:minor, of the device or of the file system that holds the file
	boot string // the boot in which dev and seq hold

	uri  string // of an export, canonical
	size string // of an export, bytes

	path string // in identities of earlier versions, which named the path
}

// fields are the facts in their stored order.
func (i *identity) fields() []struct {
	key   string
	value *string
} {
	return []struct {
		key   string
		value *string
	}{
		{"inode", &i.inode},
		{"born", &i.born},
		{"fs", &i.fs},
		{"mark", &i.mark},
		{"dm", &i.dm},
		{"wwid", &i.wwid},
		{"loop", &i.loop},
		{"window", &i.window},
		{"seq", &i.seq},
		{"dev", &i.dev},
		{"boot", &i.boot},
		{"uri", &i.uri},
		{"size", &i.size},
	}
}

func (i identity) String() string {
	var b strings.Builder
	b.WriteString(string(i.kind))
	for _, f := range i.fields() {
		if *f.value != "" {
			fmt.Fprintf(&b, " %s=%s", f.key, url.QueryEscape(*f.value))
		}
	}
	return b.String()
}

// Identities of earlier versions: a path, or a URI without secrets, and what was known of it.
var (
	oldFile   = regexp.MustCompile(`^(/.*) dev=([0-9a-f]+) inode=([0-9]+)$`)
	oldExport = regexp.MustCompile(`^(nbds?(?:\+unix|\+vsock)?:.*) size=([0-9]+)$`)
)

// parseIdentity reads what String wrote, or an earlier version. What it can't read is equal to nothing.
func parseIdentity(text string) identity {
	if m := oldFile.FindStringSubmatch(text); m != nil {
		return identity{kind: nbd.File, path: m[1], inode: m[3], dev: oldDevice(m[2])}
	}
	if m := oldExport.FindStringSubmatch(text); m != nil {
		return identity{kind: nbd.NBD, uri: canonical(m[1]), size: m[2]}
	}
	kind, rest, _ := strings.Cut(text, " ")
	i := identity{kind: nbd.Kind(kind)}
	if text == nbd.NullName {
		i.kind = nbd.Null
	}
	facts := map[string]string{}
	for word := range strings.FieldsSeq(rest) {
		key, value, _ := strings.Cut(word, "=")
		if plain, err := url.QueryUnescape(value); err == nil {
			facts[key] = plain
		}
	}
	for _, f := range i.fields() {
		*f.value = facts[f.key]
	}
	return i
}

func oldDevice(hex string) string {
	n, err := strconv.ParseUint(hex, 16, 64)
	if err != nil {
		return ""
	}
	return devno(n)
}

func devno(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }

// same says whether both are one volume. now was asked just now; path is where, absolute.
func (i identity) same(now identity, path string) bool {
	switch {
	case i.path != "":
		return i.sameAsBefore(now, path)
	case i.kind != now.kind:
		return false
	case i.kind == nbd.NBD:
		return i.uri == now.uri && i.size == now.size
	case i.kind == nbd.Null:
		return true
	case i.kind == nbd.Block:
		return i.sameDevice(now)
	default:
		return i.sameFile(now)
	}
}

// sameAsBefore compares with an identity of an earlier version: the file or device node of that number at that path,
// or of that number in that file system.
func (i identity) sameAsBefore(now identity, path string) bool {
	if now.kind == nbd.Block {
		return i.path == path
	}
	return now.kind == nbd.File && i.inode == now.inode && (i.path == path || i.dev == now.dev)
}

func (i identity) sameFile(now identity) bool {
	if i.inode == "" || i.inode != now.inode || differ(i.born, now.born) || differ(i.mark, now.mark) ||
		differ(i.fs, now.fs) {
		return false
	}
	// The number of a file system's device may change with the next boot.
	return i.boot != now.boot || i.dev == now.dev
}

func (i identity) sameDevice(now identity) bool {
	attached := i.boot == now.boot && i.dev == now.dev && i.seq == now.seq && i.seq != ""
	switch {
	case i.window != now.window:
		return false
	case i.window != "" && attached: // the backing file of a loop device may have no name any more
		return true
	case i.loop != "" || now.loop != "":
		return i.loop != "" && now.loop != "" && parseIdentity(i.loop).same(parseIdentity(now.loop), "")
	case i.dm != "" || now.dm != "":
		return i.dm == now.dm
	case i.wwid != "" || now.wwid != "":
		return i.wwid == now.wwid
	default:
		return attached
	}
}

// another says whether a device is certainly another one: names of devices can change with each boot.
func (i identity) another(now identity) bool {
	return i.kind == nbd.Block && now.kind == nbd.Block && (differ(i.dm, now.dm) || differ(i.wwid, now.wwid) ||
		i.loop != "" && now.loop != "" && !parseIdentity(i.loop).same(parseIdentity(now.loop), ""))
}

// differ says whether two facts are known and not the same.
func differ(a, b string) bool { return a != "" && b != "" && a != b }

// identify asks an open file or device which one it is.
func identify(f *os.File, kind nbd.Kind) (identity, error) {
	if kind == nbd.Block {
		return identifyDevice(f)
	}
	return identifyFile(f)
}

func identifyFile(f *os.File) (identity, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return identity{}, err
	}
	i := identity{
		kind: nbd.File, inode: strconv.FormatUint(st.Ino, 10), mark: readMark(f), fs: fileSystemID(f, st),
		dev: fmt.Sprintf("%d:%d", st.Dev_major, st.Dev_minor), boot: bootID(),
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		i.born = strconv.FormatInt(st.Btime.Sec*1e9+int64(st.Btime.Nsec), 10)
	}
	return i, nil
}

// fileSystemID is the UUID of the file system that holds f; "" if it can't be told.
func fileSystemID(f *os.File, st unix.Statx_t) string {
	// struct fsuuid2 and FS_IOC_GETFSUUID of linux/fs.h, since Linux 6.9
	const getFSUUID = 0x80111500
	var answer struct {
		length uint8
		uuid   [16]byte
	}
	//nolint:gosec // the kernel fills it
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), getFSUUID, uintptr(unsafe.Pointer(&answer)))
	if errno == 0 && answer.length == 16 && answer.uuid != [16]byte{} {
		return fmt.Sprintf("%x", answer.uuid)
	}
	links, err := filepath.Glob("/dev/disk/by-uuid/*")
	if err != nil {
		return ""
	}
	for _, link := range links {
		var dev unix.Stat_t
		if unix.Stat(link, &dev) == nil && dev.Rdev == unix.Mkdev(st.Dev_major, st.Dev_minor) {
			return strings.ReplaceAll(filepath.Base(link), "-", "")
		}
	}
	return ""
}

func identifyDevice(f *os.File) (identity, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return identity{}, err
	}
	d := sysDevice(st.Rdev)
	i := identity{
		kind: nbd.Block, dev: devno(st.Rdev), boot: bootID(), seq: d.read("diskseq"), dm: d.read("dm/uuid"),
		wwid: d.serial(),
	}
	if d.read("loop/backing_file") != "" {
		i.window = d.read("loop/offset") + "+" + d.read("loop/sizelimit")
	}
	if file, ok := d.backingFile(); ok {
		i.loop = file.id.String()
	}
	return i, nil
}

// sysfs is the folder of a block device in /sys.
type sysfs string

func sysDevice(dev uint64) sysfs { return sysfs("/sys/dev/block/" + devno(dev)) }

// read is the content of one attribute; "" if there is none.
func (d sysfs) read(name string) string {
	b, err := os.ReadFile(filepath.Join(string(d), name))
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

func (d sysfs) partition() bool { return d.read("partition") != "" }

// serial names a disk beyond this boot: its WWID or serial number, and for a partition which one. "" if it has neither.
func (d sysfs) serial() string {
	if d.partition() {
		whole, err := filepath.EvalSymlinks(string(d))
		if err != nil {
			return ""
		}
		if s := sysfs(filepath.Dir(whole)).serial(); s != "" {
			return s + "#" + d.read("start") + "+" + d.read("size")
		}
		return ""
	}
	for _, name := range []string{"wwid", "device/wwid", "uuid", "serial", "device/serial"} {
		if s := d.read(name); s != "" {
			return s
		}
	}
	return ""
}

// loopFile is the backing file of a loop device, which can be another device.
type loopFile struct {
	id    identity
	stamp string
}

// backingFile asks which file or device a loop device shows. ok is false for another device, or if that can't be
// opened: it may have no name any more.
func (d sysfs) backingFile() (file loopFile, ok bool) {
	path := d.read("loop/backing_file")
	if path == "" {
		return file, false
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return file, false
	}
	defer func() { _ = f.Close() }() // nothing was written
	kind, err := kindOf(f)
	if err != nil {
		return file, false
	}
	if file.id, err = identify(f, kind); err != nil {
		return file, false
	}
	file.stamp, err = stampOf(f, kind)
	return file, err == nil
}

func kindOf(f *os.File) (nbd.Kind, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	return nbd.KindOfFile(f.Name(), info)
}

// bootID is the kernel's id of this boot.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}

// markName is the extended attribute that holds our mark.
const markName = "user.vmferry.volume"

// readMark is our mark on an open file; "" for none.
func readMark(f *os.File) string {
	b := make([]byte, 64)
	n, err := unix.Fgetxattr(int(f.Fd()), markName, b)
	if err != nil {
		return ""
	}
	return string(b[:n])
}

// writeMark marks an open file. A file system that takes no marks is no error.
func writeMark(f *os.File, mark string) error {
	err := unix.Fsetxattr(int(f.Fd()), markName, []byte(mark), 0)
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return err
}
