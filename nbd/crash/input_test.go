package crash_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// digest is the SHA-256 of a whole file or device.
func digest(tb testing.TB, path string) string {
	tb.Helper()
	f, err := os.Open(path)
	check(tb, err)
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	check(tb, err)
	return hex.EncodeToString(h.Sum(nil))
}

// untouched checks at the end of the test that a file has not changed.
func untouched(tb testing.TB, path string) string {
	tb.Helper()
	before := digest(tb, path)
	tb.Cleanup(func() {
		if digest(tb, path) != before {
			tb.Errorf("%s was changed", path)
		}
	})
	return path
}

func file(tb testing.TB, text string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "file")
	check(tb, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// refused is a copy that must end with a code and a text.
type refused struct {
	name string
	args []string
	code int
	text string
}

func (r refused) test(t *testing.T) {
	t.Parallel()
	o := run(t, r.args...)
	if o.code != r.code && o.code != 2 { // 2 is better: the copy is refused earlier
		t.Errorf("exit %d, want %d: %s", o.code, r.code, o.err)
	}
	if o.code == 3 && (o.report.Status != "failed" || o.report.Error == nil) {
		t.Errorf("status %q", o.report.Status)
	}
	o.wantText(t, "error: ", r.text)
	for _, internal := range []string{"panic", "goroutine", "%!"} {
		if strings.Contains(o.err, internal) {
			t.Errorf("the text is not for people: %s", o.err)
		}
	}
	if o.report.BytesTransferred+o.report.BytesSkipped > 0 {
		t.Errorf("the report says that %d bytes were copied", o.report.BytesTransferred+o.report.BytesSkipped)
	}
}

func TestATargetThatDoesNotFitIsRefusedAndNotTouched(t *testing.T) {
	t.Parallel()
	src := untouched(t, source(t, 4*mib, 1))
	small := untouched(t, garbageTarget(t, 4*mib-1))
	smallExport := nbdkit(t, "file", small).uri
	fits := untouched(t, garbageTarget(t, 4*mib))
	folder := t.TempDir()
	fifo := filepath.Join(folder, "fifo")
	check(t, syscall.Mkfifo(fifo, 0o600))
	fresh := filepath.Join(t.TempDir(), "none", "new")
	for _, r := range []refused{
		{"a file that is too small", []string{src, small}, 3, "has 4194303 bytes, the source has 4194304"},
		{"an export that is too small", []string{src, smallExport}, 3, "bytes, the source has 4194304"},
		{"an empty file", []string{src, file(t, "")}, 3, "has 0 bytes, the source has 4194304"},
		{"an export that is read-only", []string{src, nbdkit(t, "-r", "file", fits).uri}, 3, "is read-only"},
		{"a folder", []string{src, folder}, 3, "neither a file nor a block device"},
		{"a FIFO", []string{src, fifo}, 3, "neither a file nor a block device"},
		{"a character device", []string{src, "/dev/full"}, 3, "neither a file nor a block device"},
		{"a folder that is not there", []string{src, fresh}, 3, "no such file"},
		{"a device that is not there", []string{src, "/dev/no-such-disk"}, 3, "there is no device"},
		{"itself", []string{src, src}, 3, "source"},
		{"a source of no bytes", []string{file(t, ""), fits}, 3, "has no bytes"},
		{"a source that is not there", []string{"/nowhere", fits}, 3, "no such file"},
		{"a source that is a folder", []string{folder, fits}, 3, "neither a file nor a block device"},
	} {
		t.Run(r.name, r.test)
	}
	t.Cleanup(func() {
		if exists(filepath.Dir(fresh)) {
			t.Error("a folder was made")
		}
	})
}

func TestATargetOfAnotherUserIsRefused(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can run a program as another user")
	}
	dir := shortDir(t)
	check(t, os.Chmod(dir, 0o755))
	src := image(t, filepath.Join(dir, "source"), mib, 2)
	check(t, os.Chmod(src, 0o644))
	to := filepath.Join(dir, "target")
	check(t, os.WriteFile(to, make([]byte, mib), 0o444))
	untouched(t, to)
	other := &syscall.Credential{Uid: 65534, Gid: 65534}
	o := startAs(t, other, src, to).wait()
	o.wantFailed(t, job.Permission)
	o.wantText(t, "permission denied")

	checkpoint := filepath.Join(dir, "checkpoint")
	check(t, os.WriteFile(checkpoint, []byte("VMFERRYc"), 0o000))
	o = startAs(t, other, src, "null:", "--checkpoint", checkpoint).wait()
	o.wantFailed(t, job.Permission)
	o.wantText(t, "read checkpoint", "permission denied")
	if info, err := os.Stat(checkpoint); err != nil || info.Mode().Perm() != 0 || info.Size() != 8 {
		t.Errorf("the checkpoint was touched: %v, %v", info, err)
	}
}

func TestABusyTargetIsRefused(t *testing.T) {
	t.Parallel()
	src := source(t, 64*mib, 3)
	t.Run("a file that another copy writes to", func(t *testing.T) {
		t.Parallel()
		to := garbageTarget(t, 64*mib)
		from := nbdkit(t, "-r", "--filter=rate", "file", src, "rate=256M", "burstiness=0.1")
		log := from.tail()
		first := start(t, from.uri, to)
		await(t, "the first copy works", func() bool { return log.look().reads > 0 })
		o := run(t, src, to)
		o.wantFailed(t, job.Conflict)
		o.wantText(t, "another transfer writes to it")
		first.mustWait()
		same(t, to, src)
	})
	t.Run("a block device that is mounted", func(t *testing.T) {
		t.Parallel()
		disk := garbageTarget(t, 64*mib)
		mustExec(t, "mkfs.ext4", "-q", disk)
		device := loop(t, disk)
		mount(t, "ext4", device, "")
		o := run(t, src, device)
		o.wantFailed(t, job.Conflict)
		o.wantText(t, "busy")
	})
	t.Run("a block device that another process has open", func(t *testing.T) {
		t.Parallel()
		device := loop(t, garbageTarget(t, 64*mib))
		f, err := os.OpenFile(device, os.O_RDWR|unix.O_EXCL, 0)
		check(t, err)
		o := run(t, src, device)
		check(t, f.Close())
		o.wantFailed(t, job.Conflict)
		o.wantText(t, "busy")
		mustRun(t, src, device)
		same(t, device, src)
	})
	t.Run("a block device that is read-only", func(t *testing.T) {
		t.Parallel()
		device := loop(t, untouched(t, garbageTarget(t, 64*mib)), "-r")
		o := run(t, src, device)
		o.wantFailed(t, job.Permission)
	})
	t.Run("a block device that is too small", func(t *testing.T) {
		t.Parallel()
		device := loop(t, untouched(t, garbageTarget(t, 63*mib)))
		o := run(t, src, device)
		o.wantFailed(t, job.Invalid)
		o.wantText(t, "has 66060288 bytes, the source has 67108864")
	})
}

// A program that is started has, for an instant, all files open that its parent has.
func TestATargetIsFreeAsSoonAsItsCopyHasEnded(t *testing.T) {
	src, to := source(t, 64*kib, 9), garbageTarget(t, 64*kib)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				exec.Command("true").Run()
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for i := range 200 {
		_, err := copytest.Copy(t.Context(), nbd.Task{
			Source: src, Target: copytest.Onto(to), Connections: 1, Requests: 1, RequestSize: 64 * kib,
		}, &nbd.Meter{})
		if err != nil {
			t.Fatalf("copy %d: %v", i, err)
		}
	}
}

func TestDisksOfOddSizesAreCopiedToTheLastByte(t *testing.T) {
	t.Parallel()
	for i, size := range []int64{1, 511, 513, 4097, mib - 1, mib + 512, 3*mib + 5} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			src := source(t, size, size)
			from, to := src, garbageTarget(t, size)
			if i%2 == 0 {
				from, to = nbdkit(t, "-r", "file", src).uri, filepath.Join(t.TempDir(), "new")
			}
			mustRun(t, from, to, "--verify", "full")
			same(t, to, src)
			if info, err := os.Stat(to); err != nil || info.Size() != size {
				t.Errorf("the target: %v, %v", info, err)
			}
		})
	}
	t.Run("a target of whole blocks", func(t *testing.T) {
		t.Parallel()
		src, to := source(t, 3*mib+512, 4), garbageTarget(t, 3*mib+4096)
		blocks := []string{
			"blocksize-error-policy=error", "blocksize-minimum=4096", "blocksize-preferred=4096",
			"blocksize-maximum=1048576",
		}
		target := nbdkit(t, append([]string{"--filter=blocksize-policy", "file", to}, blocks...)...)
		o := run(t, src, target.uri)
		if o.code == 0 {
			same(t, to, src)
			return
		}
		o.wantFailed(t, job.Invalid, job.Unsupported)
		o.wantText(t, "block")
	})
}

func TestURIsThatAreNotSupportedAreRefused(t *testing.T) {
	t.Parallel()
	src := untouched(t, source(t, mib, 5))
	secret := untouched(t, file(t, "alice:0123456789abcdef"))
	for i, uri := range []string{
		"nbd+ssh://localhost/disk", "nbds+ssh://localhost/disk", "ssh://localhost/disk", "http://localhost/disk",
		"file:///etc/hostname", "nbd:", "nbd:localhost", "nbd+unix:///", "nbd+unix:///?socket=",
		"nbd+unix:///?socket=a&socket=b", "nbd+unix:///?Socket=/x",
		"nbd://[::1", "nbd://host:99999999/", "nbd://host:port/", "nbd+vsock://host/", "://", "nbd+exec:true",
		"nbds://localhost:1/?tls-psk-file=" + secret, "nbds+unix:///?socket=/nowhere&tls-psk-file=" + secret,
		"nbds://localhost:1/?tls-certificates=/etc", "nbd+unix:///?socket=/nowhere\x01", "nbd://%zz/",
	} {
		t.Run(uri, func(t *testing.T) {
			t.Parallel()
			to := filepath.Join(t.TempDir(), "target")
			args := []string{uri, to}
			if i%2 == 0 {
				args = []string{src, uri}
			}
			o := run(t, args...)
			if o.code != 3 && o.code != 2 {
				t.Errorf("exit %d: %s", o.code, o.err)
			}
			o.wantText(t, "error: ")
			if strings.Contains(o.err, "0123456789abcdef") {
				t.Errorf("the output holds a secret: %s", o.err)
			}
			if exists(to) || exists(uri) {
				t.Error("something was made")
			}
		})
	}
	t.Run("a password", func(t *testing.T) {
		t.Parallel()
		o := run(t, "nbd://user:canary@localhost:1/x", "null:")
		o.wantFailed(t, job.Unavailable, job.Invalid)
		if all := o.err + o.report.Error.Message; strings.Contains(all, "canary") {
			t.Errorf("the output holds the password: %s", all)
		}
	})
}

func TestAListOfChangesThatIsInvalidIsRefused(t *testing.T) {
	t.Parallel()
	src := untouched(t, source(t, 4*mib, 6))
	target := func() string { return untouched(t, garbageTarget(t, 4*mib)) }
	list := func(text string) []string { return []string{src, target(), "--changed", file(t, text)} }
	for _, r := range []refused{
		{"not there", []string{src, target(), "--changed", "/nowhere/list"}, 2, "no such file"},
		{"a folder", []string{src, target(), "--changed", t.TempDir()}, 2, "is a directory"},
		{"no text", list(""), 2, "changed ranges"},
		{"not JSON", list("0 65536\n"), 2, "changed ranges"},
		{"cut short", list(`[{"offset":0,"length":4096}`), 2, "changed ranges"},
		{"null", list("null"), 2, "changed ranges"},
		{"an object", list(`{"offset":0,"length":4096}`), 2, "changed ranges"},
		{"two lists", list(`[{"offset":0,"length":4096}][]`), 2, "changed ranges"},
		{"text after it", list(`[{"offset":0,"length":4096}] and so on`), 2, "changed ranges"},
		{"a closing bracket after it", list(`[{"offset":0,"length":4096}]]`), 2, "changed ranges"},
		{"strings", list(`[{"offset":"0","length":"4096"}]`), 2, "changed ranges"},
		{"fractions", list(`[{"offset":0.5,"length":4096}]`), 2, "changed ranges"},
		{"unknown names", list(`[{"start":0,"length":4096}]`), 2, "changed ranges"},
		{"a negative offset", list(`[{"offset":-4096,"length":4096}]`), 2, "changed ranges"},
		{"no length", list(`[{"offset":4096,"length":0}]`), 2, "changed ranges"},
		{"a length that is left out", list(`[{"offset":4096}]`), 2, "changed ranges"},
		{"a number too large", list(`[{"offset":9223372036854775808,"length":1}]`), 2, "changed ranges"},
		{
			"an end too large", list(`[{"offset":9223372036854775807,"length":9223372036854775807}]`), 2,
			"changed ranges",
		},
		{
			"an end beyond the disk", list(`[{"offset":0,"length":4096},{"offset":4194303,"length":2}]`), 3,
			"beyond the disk",
		},
		{"a beginning beyond the disk", list(`[{"offset":4194304,"length":1}]`), 3, "beyond the disk"},
	} {
		t.Run(r.name, r.test)
	}
}

func TestAListOfChangesInAnyOrderIsCopiedExactly(t *testing.T) {
	t.Parallel()
	src := source(t, 4*mib, 7)
	tests := map[string]struct {
		list string
		want []job.Extent
	}{
		"empty": {`[]`, nil},
		"unsorted": {
			`[{"offset":2097152,"length":65536},{"offset":0,"length":512}]`,
			[]job.Extent{{Offset: 0, Length: 512}, {Offset: 2 * mib, Length: 64 * kib}},
		},
		"overlapping": {
			`[{"offset":65536,"length":65536},{"offset":98304,"length":65536},{"offset":65536,"length":10}]`,
			[]job.Extent{{Offset: 64 * kib, Length: 96 * kib}},
		},
		"twice":      {`[{"offset":7,"length":9},{"offset":7,"length":9}]`, []job.Extent{{Offset: 7, Length: 9}}},
		"to the end": {`[{"offset":4194303,"length":1}]`, []job.Extent{{Offset: 4*mib - 1, Length: 1}}},
		"with space": {" \n[ {\"length\": 1, \"offset\": 5} ]\n\n", []job.Extent{{Offset: 5, Length: 1}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			to := garbageTarget(t, 4*mib)
			want, err := os.ReadFile(to)
			check(t, err)
			from, err := os.ReadFile(src)
			check(t, err)
			for _, e := range tc.want {
				copy(want[e.Offset:e.End()], from[e.Offset:e.End()])
			}
			o := mustRun(t, src, to, "--changed", file(t, tc.list), "--verify", "full")
			same(t, to, file(t, string(want)))
			if n := job.Extents(tc.want).Sum(); o.report.BytesToTransfer != n {
				t.Errorf("%d bytes to transfer, want %d", o.report.BytesToTransfer, n)
			}
		})
	}
}

func TestASourceOfAnotherSizeDoesNotGoOn(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]int64{"grown": 4 * mib, "shrunk": -4 * mib} {
		for _, kind := range []string{"file", "export"} {
			t.Run(kind+" "+name, func(t *testing.T) {
				t.Parallel()
				src := source(t, 32*mib, 8)
				to := garbageTarget(t, 40*mib)
				serve := func() string {
					if kind == "file" {
						return src
					}
					return nbdkit(t, "-r", "file", src).uri
				}
				checkpoint := halfway(t, serve(), to)
				check(t, os.Truncate(src, 32*mib+by))
				from := serve()
				before := digest(t, to)
				o := run(t, from, to, "--checkpoint", checkpoint)
				o.wantFailed(t, job.Conflict)
				o.wantText(t, "checkpoint", fmt.Sprintf("a disk of %d bytes, this one has %d", 32*mib, 32*mib+by))
				if digest(t, to) != before {
					t.Error("the target was changed")
				}
				if exists(checkpoint) || !exists(checkpoint+".rejected") {
					t.Error("the checkpoint was not kept aside")
				}
				mustRun(t, from, to, "--checkpoint", checkpoint)
				same(t, to, src)
			})
		}
	}
}
