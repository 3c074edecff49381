package nbd_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/sim"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// images are what qemu-img can make.
func images() map[string][]string {
	return map[string][]string{
		"qcow2": {"-O", "qcow2"}, "qcow2 of version 2": {"-O", "qcow2", "-o", "compat=0.10"}, "qcow": {"-O", "qcow"},
		"qed": {"-O", "qed"}, "vmdk": {"-O", "vmdk"}, "vmdk as OVA": {"-O", "vmdk", "-o", "subformat=streamOptimized"},
		"vmdk, text": {"-O", "vmdk", "-o", "subformat=monolithicFlat"},
		"vhdx":       {"-O", "vhdx"}, "vpc": {"-O", "vpc"}, "vdi": {"-O", "vdi"}, "parallels": {"-O", "parallels"},
	}
}

// convert makes an image with spaces in its name, which holds what a raw file holds.
func convert(t *testing.T, src string, how []string) string {
	t.Helper()
	need(t, "qemu-img")
	path := filepath.Join(t.TempDir(), "the image of it")
	out, err := exec.Command("qemu-img", append(append([]string{"convert", "-f", "raw"}, how...), src, path)...).
		CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func TestAnImageIsRefusedWithTheCommandThatServesWhatItHolds(t *testing.T) {
	want := disk(3*mib, mixed)
	src := image(t, want)
	for name, how := range images() {
		t.Run(name, func(t *testing.T) {
			path, to := convert(t, src, how), dirty(t, 4*mib)
			task := nbd.Task{Source: path, Target: copytest.Onto(to), OnlyRaw: true}
			_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
			wantKind(t, err, job.Invalid)
			if b := content(t, to); b[0] != 0xAA || len(b) != 4*mib {
				t.Error("something was copied")
			}
			if !strings.Contains(err.Error(), how[1]+" image") {
				t.Errorf("the error does not name %s: %v", how[1], err)
			}
			found := regexp.MustCompile("`(qemu-nbd -r .*)`.*'(nbd.*)'").FindStringSubmatch(job.NextOf(err))
			if found == nil {
				t.Fatalf("no command in %q", job.NextOf(err))
			}
			// As it is, but for the folder of the socket, which other tests may use.
			dir := shortDir(t)
			pid := filepath.Join(dir, "pid")
			command := strings.ReplaceAll(found[1], "-k '/tmp/", "-k '"+dir+"/") + " --pid-file " + pid
			task.Source = strings.ReplaceAll(found[2], "%2Ftmp%2F", strings.ReplaceAll(dir+"/", "/", "%2F"))
			serve(t, "", pid, "sh", "-c", "exec "+command)
			mustCopy(t, task)
			same(t, content(t, to), want)
		})
	}
}

func TestATargetThatIsAnImageIsRefused(t *testing.T) {
	src := image(t, disk(mib, dense))
	for name, how := range images() {
		t.Run(name, func(t *testing.T) {
			to := convert(t, image(t, disk(2*mib, dense)), how)
			before := content(t, to)
			task := nbd.Task{Source: src, Target: copytest.Onto(to), OnlyRaw: true}
			if info, err := os.Stat(to); err != nil || info.Size() < mib {
				check(t, err)
				check(t, os.Truncate(to, 2*mib)) // a text that names another file
				before = content(t, to)
			}
			_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
			wantKind(t, err, job.Invalid)
			if !strings.Contains(job.NextOf(err), "qemu-nbd -f "+how[1]+" ") {
				t.Errorf("no command in %q", job.NextOf(err))
			}
			same(t, content(t, to), before)
			task.OnlyRaw = false
			mustCopy(t, task)
			same(t, content(t, to), disk(mib, dense))
		})
	}
}

// A disk of a guest can begin as an image: the guest may use it as one.
func TestTheDisksOfGuestsAreReadAsTheyAre(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	want := disk(24*mib, dense)
	copy(want, "QFI\xfb\x00\x00\x00\x03")
	src := rehearse(t, holding(t, want), sim.Options{}, "ignore,op=read,at=16M+8M")
	to := dirty(t, len(want))
	task := resumable(t, to)
	task.Source, task.OnlyRaw, task.Requests, task.RequestSize = src.URI(), true, 2, 512*kib
	ctx, cancel := context.WithCancel(bounded(t))
	_, err := while(t, ctx, task, durable(16*mib), cancel)
	wantKind(t, err, job.Cancelled)
	order(t, src.Server)
	if nbd.FormatOf(content(t, to)) != "qcow2" {
		t.Fatal("the beginning was not copied first")
	}
	if r := mustCopy(t, task); r.Resumed == 0 { // what it goes on with begins as an image now, and that is ours
		t.Error("nothing was resumed")
	}
	same(t, content(t, to), want)
}

func TestADiskIsNoImage(t *testing.T) {
	for name, head := range map[string]string{
		"nothing": "", "a short file": "QF", "zeros": strings.Repeat("\x00", 512), "a boot sector": "\xeb\x63\x90",
		"an encrypted disk": "LUKS\xba\xbe\x00\x02", "text": "# Disk\n", "a magic elsewhere": "\x00QFI\xfb",
	} {
		if got := nbd.FormatOf([]byte(head)); got != "" {
			t.Errorf("%s was taken for %s", name, got)
		}
	}
	for _, path := range []string{"/srv/web.raw", "/srv/web", "web-flat.vmdk", "a.qcow2/disk.img", "/dev/vg/web", ""} {
		if got := nbd.FormatOfName(path); got != "" {
			t.Errorf("%s is not the name of a %s image", path, got)
		}
	}
	for path, want := range map[string]string{
		"a.QCOW2": "qcow2", "/b/c.vmdk": "vmdk", "d.vhd": "vpc", "e.vhdx": "vhdx",
	} {
		if got := nbd.FormatOfName(path); got != want {
			t.Errorf("%s is the name of a %s image, not %q", path, want, got)
		}
	}
	for _, magic := range []string{"COWD\x01", "\xbe\xba\xfe\xca\x00\x00\x00\x00"} {
		if got := nbd.FormatOf([]byte(magic)); got != "vmdk" {
			t.Errorf("a vmdk of ESX is %q", got)
		}
	}
	if got := nbd.FormatOf([]byte("\xef\xbb\xbf\r\n# disk descriptorfile\r\n")); got != "vmdk" {
		t.Errorf("a descriptor with a byte order mark is %q", got)
	}
}

func TestADashIsNoDisk(t *testing.T) {
	src := image(t, disk(mib, dense))
	for _, task := range []nbd.Task{
		{Source: "-", Target: copytest.Made(filepath.Join(t.TempDir(), "t"))},
		{Source: src, Target: copytest.Made("-")},
	} {
		_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
		wantKind(t, err, job.Invalid)
	}
	if _, err := os.Stat("-"); err == nil {
		t.Error("a file of that name was made")
	}
}
