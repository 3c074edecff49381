package volumes_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
)

// place is a folder that may be written to, and the volumes of a node.
func place(t *testing.T) (string, *volumes.Volumes) {
	t.Helper()
	dir := t.TempDir()
	v := volumes.New(volumes.Allow{Roots: []string{dir}}, nil)
	t.Cleanup(func() { v.Close(context.WithoutCancel(t.Context())) })
	return dir, v
}

func ref(target string) job.VolumeRef {
	return job.VolumeRef{Job: "job-1", Disk: "disk-2000", Target: target, Capacity: 4 * mib}
}

// locked says whether another open file can't get the lock.
func locked(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

func TestAMissingTargetIsOnlyMadeWhenItIsAskedFor(t *testing.T) {
	dir, v := place(t)
	path := filepath.Join(dir, "web", "disk-2000.raw")
	info, err := v.Open(t.Context(), ref(path), false)
	check(t, err)
	if _, serr := os.Stat(filepath.Dir(path)); info.Exists || serr == nil {
		t.Errorf("exists %v; its folder: %v", info.Exists, serr)
	}
	info, err = v.Open(t.Context(), ref(path), true)
	check(t, err)
	st, err := os.Stat(path)
	check(t, err)
	if !info.Exists || !info.Zero || info.Identity == "" || info.Stamp == "" || st.Size() != 4*mib {
		t.Errorf("made: %+v, %d bytes", info, st.Size())
	}
}

func TestATargetIsLockedUntilItIsReleased(t *testing.T) {
	dir, v := place(t)
	path := filepath.Join(dir, "disk.raw")
	_, err := v.Open(t.Context(), ref(path), true)
	check(t, err)
	if !locked(t, path) {
		t.Error("it is not locked")
	}
	handle, err := v.Handle(t.Context(), ref(path), "")
	check(t, err)
	again, err := v.Handle(t.Context(), ref(path), "")
	check(t, err)
	if handle != again {
		t.Error("it was opened twice")
	}
	other := ref(path)
	other.Job = "job-2"
	_, err = v.Open(t.Context(), other, false)
	wantKind(t, err, job.Conflict)
	v.Release("job-2")
	if !locked(t, path) {
		t.Error("the release of another job unlocked it")
	}
	v.Release("job-1")
	v.Close(t.Context())
	for range 1000 { // a release does not wait for the kernel
		if !locked(t, path) {
			break
		}
	}
	_, err = v.Open(t.Context(), other, false)
	check(t, err)
}

func TestAHandleIsRefusedForAnotherTargetThanTheJobKnows(t *testing.T) {
	dir, v := place(t)
	path := filepath.Join(dir, "disk.raw")
	info, err := v.Open(t.Context(), ref(path), true)
	check(t, err)
	_, err = v.Handle(t.Context(), ref(path), info.Identity)
	check(t, err)
	v.Release("job-1")
	check(t, os.Rename(path, path+".moved"))
	_, err = v.Handle(t.Context(), ref(path), info.Identity)
	wantKind(t, err, job.NotFound)
	check(t, volumes.Create(path, 4*mib))
	_, err = v.Handle(t.Context(), ref(path), info.Identity)
	wantKind(t, err, job.Conflict)
}

func TestOnlyTheTargetThatWasOpenedIsConfirmed(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(path string) error
		kind   job.Kind // "" if it is confirmed
	}{
		"nothing":   {func(string) error { return nil }, ""},
		"written":   {func(path string) error { return os.WriteFile(path, make([]byte, 4*mib), 0o600) }, ""},
		"removed":   {os.Remove, job.Conflict},
		"truncated": {func(path string) error { return os.Truncate(path, mib) }, job.Invalid},
		"replaced": {func(path string) error {
			return errors.Join(os.Rename(path, path+".moved"), volumes.Create(path, 4*mib))
		}, job.Conflict},
		"moved and linked": {func(path string) error {
			return errors.Join(os.Rename(path, path+".moved"), os.Symlink(path+".moved", path))
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir, v := place(t)
			path := filepath.Join(dir, "disk.raw")
			info, err := v.Open(t.Context(), ref(path), true)
			check(t, err)
			check(t, tc.change(path))
			_, err = v.Confirm(t.Context(), ref(path), info.Identity)
			if tc.kind == "" {
				check(t, err)
				return
			}
			wantKind(t, err, tc.kind)
		})
	}
}

func TestWhatMayNotBeATargetIsNotOpened(t *testing.T) {
	dir, v := place(t)
	small, outside := filepath.Join(dir, "small"), dirty(t, 5*mib)
	check(t, os.WriteFile(small, make([]byte, mib), 0o600))
	fifo := filepath.Join(dir, "fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	for name, tc := range map[string]struct {
		target string
		kind   job.Kind
	}{
		"too small":          {small, job.Invalid},
		"not below a root":   {outside, job.Permission},
		"a FIFO":             {fifo, job.Invalid},
		"a folder":           {dir, job.Invalid},
		"not an allowed URI": {"nbd://host/export", job.Permission},
	} {
		_, err := v.Open(t.Context(), ref(tc.target), true)
		if job.KindOf(err) != tc.kind {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := v.Check(t.Context(), tc.target, 4*mib); job.KindOf(err) != tc.kind {
			t.Errorf("check of %s: %v", name, err)
		}
	}
}

func TestOnlyRegularFilesArePurged(t *testing.T) {
	dir, v := place(t)
	path, link := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "link")
	check(t, volumes.Create(path, mib))
	check(t, os.Symlink(path, link))
	wantKind(t, v.Purge(t.Context(), link), job.Conflict)
	wantKind(t, v.Purge(t.Context(), dirty(t, 1)), job.Permission)
	check(t, v.Purge(t.Context(), path))
	check(t, v.Purge(t.Context(), path)) // gone already
	if _, err := os.Stat(path); err == nil {
		t.Error("it is still there")
	}
}

func TestALazyTargetThatTookNothingIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	for _, begun := range []bool{false, true} {
		l := volumes.NewLazy(path, true, false)
		target, err := l.Open(t.Context(), 3*mib)
		check(t, err)
		if target.Kind() != nbd.File || target.Name() != path {
			t.Errorf("%s, a %s", target.Name(), target.Kind())
		}
		check(t, l.End(begun))
		if _, err := os.Stat(path); (err == nil) != begun {
			t.Errorf("after a copy that began (%v): %v", begun, err)
		}
	}
	l := volumes.NewLazy(path, true, false) // there already: it stays whatever happens
	_, err := l.Open(t.Context(), 3*mib)
	check(t, err)
	check(t, l.End(false))
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestAfterARestartOnlyTheTargetOfTheRoundIsConfirmed(t *testing.T) {
	dir, v := place(t)
	path := filepath.Join(dir, "disk.raw")
	info, err := v.Open(t.Context(), ref(path), true)
	check(t, err)
	v.Close(t.Context())
	next := volumes.New(volumes.Allow{Roots: []string{dir}}, nil)
	_, err = next.Confirm(t.Context(), ref(path), info.Identity)
	check(t, err)
	next.Close(t.Context())
	check(t, os.Rename(path, path+".moved"))
	check(t, volumes.Create(path, 4*mib))
	next = volumes.New(volumes.Allow{Roots: []string{dir}}, nil)
	t.Cleanup(func() { next.Close(context.WithoutCancel(t.Context())) })
	_, err = next.Confirm(t.Context(), ref(path), info.Identity)
	wantKind(t, err, job.Conflict)
}

func TestATransferThatWasCancelledOpensNoTarget(t *testing.T) {
	dir, v := place(t)
	path := filepath.Join(dir, "disk.raw")
	_, err := v.Open(t.Context(), ref(path), true)
	check(t, err)
	v.Release("job-1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = v.Handle(ctx, ref(path), "")
	wantKind(t, err, job.Cancelled)
	v.Close(t.Context())
	other := ref(path)
	other.Job = "job-2"
	_, err = v.Open(t.Context(), other, false)
	check(t, err)
}

// TestACopyThatBeginsAnewWritesZerosToATargetThatWasMade: the target was made for this round, but it has been written
// since. A copy whose checkpoint was refused knows nothing of it.
func TestACopyThatBeginsAnewWritesZerosToATargetThatWasMade(t *testing.T) {
	dir, v := place(t)
	source, path := filepath.Join(dir, "source"), filepath.Join(dir, "disk.raw")
	want := append(bytes.Repeat([]byte{7}, 2*mib), make([]byte, 2*mib)...)
	check(t, os.WriteFile(source, want, 0o600))
	info, err := v.Open(t.Context(), ref(path), true)
	check(t, err)
	handle, err := v.Handle(t.Context(), ref(path), info.Identity)
	check(t, err)
	again, err := v.Open(t.Context(), ref(path), true)
	check(t, err)
	if !info.Zero {
		t.Error("a target that was just made is not known to be zero")
	}
	_, err = nbd.Copy(t.Context(), nbd.Task{Source: source, Target: handle, TargetIsZero: again.Zero}, &nbd.Meter{})
	check(t, err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{0xEE}, 4*mib), 0)
	check(t, errors.Join(err, f.Close()))
	_, err = nbd.Copy(t.Context(), nbd.Task{
		Source: source, Target: handle, Allocated: job.Extents{{Offset: 0, Length: 2 * mib}},
	}, &nbd.Meter{})
	check(t, err)
	if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
		t.Error("rubbish is left where the source is zero")
	}
	if now, err := v.Open(t.Context(), ref(path), true); err != nil || now.Zero {
		t.Errorf("a target that holds data counts as zero (%v)", err)
	}
}
