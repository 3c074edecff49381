package nbd_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// qemuIO runs one command of qemu-io on a raw image, and returns what it says.
func qemuIO(t *testing.T, args ...string) (string, error) {
	t.Helper()
	need(t, "qemu-io")
	out, err := exec.Command("qemu-io", append([]string{"-f", "raw"}, args...)...).CombinedOutput()
	return string(out), err
}

func opened(t *testing.T, path string, flags int) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, flags, 0)
	check(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestQEMUCannotWriteToWhatACopyUsesAndCanReadIt(t *testing.T) {
	src, to := image(t, disk(8*mib, dense)), dirty(t, 8*mib)
	lim := rate.NewLimiter(4*mib, mib)
	ctx, cancel := context.WithCancel(t.Context())
	task := nbd.Task{Source: src, Target: copytest.Onto(to), Limiters: []*rate.Limiter{lim}}
	_, err := while(t, ctx, task, moved(1), func() {
		for _, path := range []string{src, to} {
			if out, err := qemuIO(t, "-c", "write 0 4k", path); err == nil || !strings.Contains(out, "lock") {
				t.Errorf("QEMU could write to %s: %v: %s", path, err, out)
			}
			if out, err := qemuIO(t, "-r", "-c", "read 0 4k", path); err != nil {
				t.Errorf("QEMU could not read %s: %v: %s", path, err, out)
			}
		}
		cancel()
	})
	wantKind(t, err, job.Cancelled)
	for _, path := range []string{src, to} {
		if out, err := qemuIO(t, "-c", "write 0 4k", path); err != nil {
			t.Errorf("the copy has ended, and QEMU could not write to %s: %v: %s", path, err, out)
		}
	}
}

func TestASourceThatQEMUWritesIsRefusedAndOneThatItReadsIsNot(t *testing.T) {
	src, to := image(t, disk(mib, dense)), dirty(t, mib)
	reader := qemu(t, src, "-r")
	mustCopy(t, nbd.Task{Source: src, Target: copytest.Onto(to)})
	same(t, content(t, to), disk(mib, dense))
	reader.kill()

	before := dirty(t, mib)
	writer := qemu(t, src)
	task := nbd.Task{Source: src, Target: copytest.Onto(before)}
	_, err := copytest.Copy(t.Context(), task, &nbd.Meter{})
	wantKind(t, err, job.Conflict)
	for _, word := range []string{"QEMU", "open for writing"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
	if job.NextOf(err) == "" {
		t.Error("no next step")
	}
	if b := content(t, before); b[0] != 0xAA {
		t.Error("something was copied")
	}
	writer.kill()
	mustCopy(t, task)
}

func TestLocksOfReadersAndWritersContradictEachOther(t *testing.T) {
	lock := map[string]func(*os.File) error{"reader": nbd.LockReader, "writer": nbd.LockWriter}
	for _, tc := range []struct {
		first, second string
		refused       bool
	}{
		{"reader", "reader", false},
		{"reader", "writer", true},
		{"writer", "reader", true},
		{"writer", "writer", true},
	} {
		t.Run(tc.second+" after "+tc.first, func(t *testing.T) {
			path := dirty(t, mib)
			a, b := opened(t, path, os.O_RDONLY), opened(t, path, os.O_RDWR)
			check(t, lock[tc.first](a))
			check(t, lock[tc.first](a)) // once more is no harm
			err := lock[tc.second](b)
			if !tc.refused {
				check(t, err)
				return
			}
			wantKind(t, err, job.Conflict)
			if !errors.Is(err, syscall.EWOULDBLOCK) {
				t.Errorf("a caller can't know that it may pass: %v", err)
			}
			check(t, nbd.Unlock(a))
			check(t, lock["writer"](b)) // the one that was refused has no lock any more
			check(t, nbd.Unlock(b))
			check(t, lock["writer"](opened(t, path, os.O_RDONLY)))
		})
	}
}

func TestLocksGoWithTheFile(t *testing.T) {
	path := dirty(t, mib)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	check(t, nbd.LockWriter(f))
	if out, err := qemuIO(t, "-c", "write 0 4k", path); err == nil {
		t.Errorf("QEMU could write: %s", out)
	}
	check(t, f.Close())
	if out, err := qemuIO(t, "-c", "write 0 4k", path); err != nil {
		t.Errorf("QEMU could not write: %v: %s", err, out)
	}
}
