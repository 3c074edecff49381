package crash_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

// mustResumeWithRoom checks that a copy failed for lack of room, and that it resumes once there is some.
func mustResumeWithRoom(t *testing.T, src, to string, before outcome, again ...string) outcome {
	t.Helper()
	before.wantFailed(t, job.NoSpace)
	before.wantText(t, "no space left", "next: ")
	o := mustRun(t, again...)
	same(t, to, src)
	return o
}

func TestATargetWithoutRoomFailsTheCopyAndRoomLetsItGoOn(t *testing.T) {
	t.Parallel()
	privileged(t)
	const size = 48 * mib
	src := source(t, size, 40)
	fill(t, src, 0, 32*mib)
	for name, room := range map[string]int{"early": 1, "late": 28} {
		t.Run(name+", a file", func(t *testing.T) {
			t.Parallel()
			dir := mount(t, "tmpfs", "tmpfs", fmt.Sprintf("size=%dm", room))
			to, checkpoint := filepath.Join(dir, "target"), filepath.Join(t.TempDir(), "checkpoint")
			args := []string{src, to, "--checkpoint", checkpoint}
			o := run(t, args...)
			check(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"))
			after := mustResumeWithRoom(t, src, to, o, args...)
			if name == "late" && after.report.BytesResumed == 0 {
				t.Error("nothing was resumed")
			}
		})
		t.Run(name+", an export", func(t *testing.T) {
			t.Parallel()
			dir := mount(t, "tmpfs", "tmpfs", fmt.Sprintf("size=%dm", room))
			to, checkpoint := filepath.Join(dir, "target"), filepath.Join(t.TempDir(), "checkpoint")
			grow(t, to, size)
			args := []string{src, nbdkit(t, "file", to).uri, "--checkpoint", checkpoint}
			o := run(t, args...)
			check(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"))
			mustResumeWithRoom(t, src, to, o, args...)
		})
	}
	t.Run("a real file system", func(t *testing.T) {
		t.Parallel()
		disk := filepath.Join(t.TempDir(), "disk")
		grow(t, disk, 24*mib)
		mustExec(t, "mkfs.ext4", "-q", disk)
		dir := mount(t, "ext4", loop(t, disk), "")
		o := run(t, src, filepath.Join(dir, "target"))
		o.wantFailed(t, job.NoSpace)
		o.wantText(t, "no space left")
	})
	t.Run("the checkpoint has none either", func(t *testing.T) {
		t.Parallel()
		dir := mount(t, "tmpfs", "tmpfs", "size=8m")
		to := filepath.Join(dir, "target")
		o := run(t, src, to, "--checkpoint", filepath.Join(dir, "checkpoint"))
		o.wantFailed(t, job.NoSpace)
		check(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"))
		mustRun(t, src, to, "--checkpoint", filepath.Join(dir, "checkpoint"))
		same(t, to, src)
		if names := leftovers(t, dir, "target"); len(names) > 0 {
			t.Errorf("there is still %v", names)
		}
	})
}

func TestRoomThatIsMissedOnlyByTheFlushFailsTheCopy(t *testing.T) {
	t.Parallel()
	privileged(t)
	const size = 48 * mib
	src := source(t, size, 41)
	fill(t, src, 0, 32*mib)
	for _, checkpoint := range []bool{false, true} {
		t.Run(fmt.Sprintf("checkpoint %v", checkpoint), func(t *testing.T) {
			t.Parallel()
			dir := mount(t, "tmpfs", "tmpfs", "size=16m")
			to := filepath.Join(dir, "target")
			grow(t, to, size)
			target := volatile(t, to) // accepts all writes, and fails only at the flush
			args := []string{src, target.uri}
			if checkpoint {
				args = append(args, "--checkpoint", filepath.Join(t.TempDir(), "checkpoint"))
			}
			o := run(t, args...)
			check(t, syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"))
			target.again()
			after := mustResumeWithRoom(t, src, to, o, args...)
			if after.report.BytesResumed > 0 {
				t.Errorf("%d bytes were resumed, though nothing was ever flushed", after.report.BytesResumed)
			}
		})
	}
	t.Run("a device whose own store is full", func(t *testing.T) {
		t.Parallel()
		dir := mount(t, "tmpfs", "tmpfs", "size=16m")
		store := filepath.Join(dir, "store")
		grow(t, store, size)
		target := nbdkit(t, "file", loop(t, store)) // goes through the page cache: no write fails before the flush
		o := run(t, src, target.uri)
		o.wantFailed(t, job.IO, job.NoSpace)
	})
	t.Run("a file system on such a device", func(t *testing.T) {
		t.Parallel()
		// More than may be on its way to the disk. Errors of the writeback come long before the flush, which must
		// report them.
		const size = 128 * mib
		src := source(t, size, 45)
		fill(t, src, 0, size)
		store := filepath.Join(mount(t, "tmpfs", "tmpfs", "size=72m"), "store")
		grow(t, store, size+64*mib)
		// with a journal the file system would stop before any file is written
		mustExec(t, "mkfs.ext4", "-q", "-O", "^has_journal", store)
		o := run(t, src, filepath.Join(mount(t, "ext4", loop(t, store), "errors=continue"), "target"))
		o.wantFailed(t, job.IO, job.NoSpace)
	})
	t.Run("such a device, without a server", func(t *testing.T) {
		t.Parallel()
		// The second half has room: the errors of the first come long before the flush.
		const size = 128 * mib
		src := source(t, size, 44)
		fill(t, src, 0, size)
		store := filepath.Join(mount(t, "tmpfs", "tmpfs", "size=72m"), "store")
		grow(t, store, size)
		fill(t, store, size/2, size)
		o := run(t, src, loop(t, store))
		o.wantFailed(t, job.IO, job.NoSpace)
	})
}

// TestACheckpointWhoseFlushFailsIsNotBelieved has the checkpoint on a file system whose own store becomes full. The
// flush of the next checkpoint fails, and the journal of the file system with it.
func TestACheckpointWhoseFlushFailsIsNotBelieved(t *testing.T) {
	t.Parallel()
	privileged(t)
	const size = 64 * mib
	src := source(t, size, 43)
	fill(t, src, 0, size)
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed %v", killed), func(t *testing.T) {
			t.Parallel()
			to, store := garbageTarget(t, size), mount(t, "tmpfs", "tmpfs", "size=32m")
			disk := filepath.Join(store, "disk")
			grow(t, disk, 24*mib)
			mustExec(t, "mkfs.ext4", "-q", disk)
			device := loop(t, disk)
			dir := mount(t, "ext4", device, "")
			checkpoint := filepath.Join(dir, "checkpoint")
			c := start(t, src, to, "--checkpoint", checkpoint, "--bandwidth", "8MiB")
			await(t, "the first checkpoint is there", func() bool { return c.over() || exists(checkpoint) })
			fillFileSystem(t, filepath.Join(store, "clog"))
			c.waitWord("checkpoint was not written", time.Minute)
			if killed {
				c.kill()
			} else if o := c.wait(); o.code == 0 {
				same(t, to, src)
			} else {
				o.wantFailed(t, job.IO, job.Permission)
			}
			check(t, os.Remove(filepath.Join(store, "clog")))
			check(t, syscall.Unmount(dir, 0))
			check(t, syscall.Mount(device, dir, "ext4", 0, ""))
			mustRun(t, src, to, "--checkpoint", checkpoint)
			same(t, to, src)
			if names := leftovers(t, dir, "lost+found"); len(names) > 0 {
				t.Errorf("there is still %v", names)
			}
		})
	}
}

// fillFileSystem writes a file until the file system is full.
func fillFileSystem(tb testing.TB, path string) {
	tb.Helper()
	f, err := os.Create(path)
	check(tb, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 64*kib))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		tb.Fatal(err)
	}
}
