package nbd

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmferry/vmferry/job"
)

// FormatHead is how many bytes FormatOf wants to see.
const FormatHead = 512

// FormatOf gives the name, as QEMU's, of the image format that a file begins as: its bytes are not those of a disk, but
// say where those are. head are its first FormatHead bytes, or fewer of a shorter file. It is empty for a raw disk, and
// for a VHD of fixed size, which begins as one.
func FormatOf(head []byte) string {
	if format := textFormat(head); format != "" {
		return format
	}
	for _, m := range []struct {
		at            int
		magic, format string
	}{
		{0, "QFI\xfb\x00\x00\x00\x01", "qcow"},
		{0, "QFI\xfb", "qcow2"},
		{0, "QED\x00", "qed"},
		{0, "KDMV", "vmdk"},
		{0, "COWD", "vmdk"},
		{0, "\xbe\xba\xfe\xca\x00\x00\x00\x00", "vmdk"},
		{0, "vhdxfile", "vhdx"},
		{0, "conectix", "vpc"},
		{64, "\x7f\x10\xda\xbe", "vdi"},
		{0, "WithoutFreeSpace", "parallels"},
		{0, "WithouFreSpacExt", "parallels"},
		{0, "Bochs Virtual HD Image", "bochs"},
	} {
		if len(head) > m.at && bytes.HasPrefix(head[m.at:], []byte(m.magic)) {
			return m.format
		}
	}
	return ""
}

// textFormat knows a VMDK by the text that names its other files.
func textFormat(head []byte) string {
	const first = "# disk descriptorfile"
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(head) >= len(first) && strings.EqualFold(string(head[:len(first)]), first) {
		return "vmdk"
	}
	return ""
}

// FormatOfName gives the name, as QEMU's, of the image format that the name of a file promises; it is empty if it
// promises none. A "-flat.vmdk" is a raw disk.
func FormatOfName(path string) string {
	name := strings.ToLower(filepath.Base(path))
	if strings.HasSuffix(name, "-flat.vmdk") {
		return ""
	}
	return map[string]string{
		".qcow2": "qcow2", ".qcow": "qcow", ".qed": "qed", ".vmdk": "vmdk", ".vhdx": "vhdx", ".avhdx": "vhdx",
		".vhd": "vpc", ".vpc": "vpc", ".vdi": "vdi", ".hdd": "parallels", ".hds": "parallels",
	}[filepath.Ext(name)]
}

// FormatOfFile is FormatOf for an open file or block device. It costs one small read.
func FormatOfFile(f *os.File) (string, error) {
	head := make([]byte, FormatHead)
	n, err := f.ReadAt(head, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return FormatOf(head[:n]), err
}

// checkSourceFormat refuses a local source that is no raw disk.
func checkSourceFormat(f *os.File) error {
	format, err := FormatOfFile(f)
	if err != nil || format == "" {
		return err
	}
	serve, uri := serveCommand(f.Name(), format, "-r ")
	return job.Errorf("", job.Invalid,
		"Serve what it holds with `"+serve+"`, and copy from '"+uri+"'; --format raw copies the file as it is",
		"%s begins as a %s image, so its bytes are not those of a disk", f.Name(), format)
}

// checkFormat refuses a local target that is no raw disk: what reads it later would take the new bytes for the rest of
// the image that it was.
func (t *Target) checkFormat() error {
	if t.file == nil || t.fresh {
		return nil
	}
	format, err := FormatOfFile(t.file)
	if err != nil || format == "" {
		return err
	}
	serve, uri := serveCommand(t.name, format, "")
	return job.Errorf("open target", job.Invalid,
		"Name another target, or fill this image with `"+serve+"` and copy to '"+uri+
			"'; --format raw writes over it as it is",
		"%s begins as a %s image, and a copy writes a raw disk", t.name, format)
}

// serveCommand serves the disk that an image holds over NBD, for any number of connections, until it is stopped.
func serveCommand(path, format, readOnly string) (command, uri string) {
	if p, err := filepath.Abs(path); err == nil {
		path = p
	}
	base := filepath.Base(path)
	socket := "/tmp/" + strings.TrimSuffix(base, filepath.Ext(base)) + ".sock"
	return "qemu-nbd " + readOnly + "-f " + format + " -t -k " + shellWord(socket) + " " + shellWord(path),
		SocketURI(socket)
}

// shellWord writes a word so that a shell reads it as it is.
func shellWord(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+:,@%", r)
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
