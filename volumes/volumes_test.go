package volumes_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// world is a folder that may be written to, and the volumes of a node whose jobs have not ended.
type world struct {
	*volumes.Volumes
	t      *testing.T
	dir    string
	ledger *copytest.Ledger
	ended  map[job.ID]bool
}

func newWorld(t *testing.T, uris ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), ended: map[job.ID]bool{}}
	w.ledger = &copytest.Ledger{Active: func(id job.ID) bool { return !w.ended[id] }}
	w.Volumes = volumes.New(volumes.Allow{Roots: []string{w.dir}, URIs: uris}, w.ledger, nil)
	t.Cleanup(func() { w.Close(context.WithoutCancel(t.Context())) })
	return w
}

// restart is what a restart of the daemon does.
func (w *world) restart() {
	w.t.Helper()
	w.Close(w.t.Context())
	w.Volumes = volumes.New(volumes.Allow{Roots: []string{w.dir}}, w.ledger, nil)
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func ref(target string) job.VolumeRef {
	return job.VolumeRef{Job: "job-1", Disk: "disk-2000", Target: target, Capacity: 4 * mib}
}

func claim(r job.VolumeRef, vm string) job.VolumeClaim {
	return job.VolumeClaim{VolumeRef: r, Owner: job.VolumeOwner{VM: vm, Name: "/DC0/vm/" + vm, Disk: r.Disk}}
}

// claims claims a target for a VM and says what came of it.
func (w *world) claims(r job.VolumeRef, vm string) error {
	w.t.Helper()
	_, err := w.Claim(w.t.Context(), []job.VolumeClaim{claim(r, vm)}, nil)
	return err
}

// prepared claims, opens and prepares a target.
func (w *world) prepared(r job.VolumeRef, vm string) job.TargetInfo {
	w.t.Helper()
	check(w.t, w.claims(r, vm))
	_, err := w.Open(w.t.Context(), r)
	check(w.t, err)
	info, err := w.Prepare(w.t.Context(), r)
	check(w.t, err)
	return info
}

// written is a target that an attempt of a round has written to, all of it, and left.
func (w *world) written(r job.VolumeRef, vm string) job.TargetInfo {
	w.t.Helper()
	info := w.prepared(r, vm)
	_, _, err := w.Handle(w.t.Context(), r, info.Identity, info.Zero, true)
	check(w.t, err)
	scribble(w.t, r.Target, 0, bytes.Repeat([]byte{7}, 4*mib))
	check(w.t, w.Settle(w.t.Context(), r))
	return info
}

// scribble writes into a file, as any process can.
func scribble(t *testing.T, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteAt(b, off)
	check(t, errors.Join(err, f.Close()))
}

// locked says whether another open file can't get the lock.
func locked(t *testing.T, path string) bool {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil
}

func TestAMissingTargetIsOnlyMadeWhenARoundBegins(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("web/disk-2000.raw"))
	check(t, w.claims(r, "50-1"))
	info, err := w.Open(t.Context(), r)
	check(t, err)
	if _, serr := os.Stat(filepath.Dir(r.Target)); info.Exists || serr == nil {
		t.Errorf("exists %v; its folder: %v", info.Exists, serr)
	}
	info, err = w.Prepare(t.Context(), r)
	check(t, err)
	st, err := os.Stat(r.Target)
	check(t, err)
	if !info.Exists || !info.Zero || info.Identity == "" || info.Stamp == "" || st.Size() != 4*mib {
		t.Errorf("made: %+v, %d bytes", info, st.Size())
	}
}

func TestATargetIsLockedUntilItIsReleased(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	info := w.prepared(r, "50-1")
	if !locked(t, r.Target) {
		t.Error("it is not locked")
	}
	handle, _, err := w.Handle(t.Context(), r, info.Identity, true, false)
	check(t, err)
	again, _, err := w.Handle(t.Context(), r, info.Identity, true, false)
	check(t, err)
	if handle != again {
		t.Error("it was opened twice")
	}
	w.Release("job-2")
	if !locked(t, r.Target) {
		t.Error("the release of another job unlocked it")
	}
	w.Release("job-1")
	w.Close(t.Context())
	for range 1000 { // a release does not wait for the kernel
		if !locked(t, r.Target) {
			break
		}
	}
	_, err = w.Open(t.Context(), r)
	check(t, err)
}

func TestATargetThatAnotherProcessHasIsRefused(t *testing.T) {
	w, other := newWorld(t), newWorld(t)
	r := ref(w.path("disk.raw"))
	w.prepared(r, "50-1")
	there := volumes.New(volumes.Allow{Roots: []string{w.dir}}, other.ledger, nil)
	t.Cleanup(func() { there.Close(context.WithoutCancel(t.Context())) })
	adopting := claim(r, "50-1")
	adopting.Adopt = true
	_, err := there.Claim(t.Context(), []job.VolumeClaim{adopting}, nil)
	check(t, err)
	_, err = there.Open(t.Context(), r)
	wantKind(t, err, job.Conflict)
}

func TestAHandleIsRefusedForAnotherTargetThanTheJobKnows(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	info := w.prepared(r, "50-1")
	_, _, err := w.Handle(t.Context(), r, info.Identity, false, true)
	check(t, err)
	w.restart()
	check(t, os.Rename(r.Target, r.Target+".moved"))
	_, _, err = w.Handle(t.Context(), r, info.Identity, false, true)
	wantKind(t, err, job.NotFound)
	check(t, volumes.Create(r.Target, 4*mib))
	_, _, err = w.Handle(t.Context(), r, info.Identity, false, true)
	wantKind(t, err, job.Conflict)
}

func TestOnlyTheTargetThatWasOpenedIsConfirmed(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(path string) error
		kind   job.Kind // "" if it is confirmed
	}{
		"nothing":   {func(string) error { return nil }, ""},
		"written":   {func(path string) error { return os.WriteFile(path, make([]byte, 4*mib), 0o600) }, job.Conflict},
		"one byte":  {func(path string) error { scribble(t, path, mib, []byte{9}); return nil }, job.Conflict},
		"removed":   {os.Remove, job.Conflict},
		"truncated": {func(path string) error { return os.Truncate(path, mib) }, job.Invalid},
		"grown":     {func(path string) error { return os.Truncate(path, 5*mib) }, job.Conflict},
		"replaced": {func(path string) error {
			return errors.Join(os.Rename(path, path+".moved"), volumes.Create(path, 4*mib))
		}, job.Conflict},
		"written with its time set back": {func(path string) error {
			st, err := os.Stat(path)
			check(t, err)
			scribble(t, path, mib, []byte{9})
			return os.Chtimes(path, st.ModTime(), st.ModTime())
		}, job.Conflict},
		"written through a mapping": {func(path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			check(t, err)
			defer f.Close()
			b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			check(t, err)
			b[17]++
			return unix.Munmap(b)
		}, job.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := ref(w.path("disk.raw"))
			info := w.written(r, "50-1")
			check(t, tc.change(r.Target))
			_, err := w.Confirm(t.Context(), r, info.Identity)
			if tc.kind == "" {
				check(t, err)
				return
			}
			wantKind(t, err, tc.kind)
		})
	}
}

// TestATargetWhoseFolderWasReplacedIsNotConfirmed: the file itself is as it was, and its path leads elsewhere.
func TestATargetWhoseFolderWasReplacedIsNotConfirmed(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("web/disk.raw"))
	info := w.written(r, "50-1")
	check(t, os.Rename(w.path("web"), w.path("moved")))
	_, err := w.Confirm(t.Context(), r, info.Identity)
	wantKind(t, err, job.Conflict)
	check(t, os.Mkdir(w.path("web"), 0o700))
	check(t, volumes.Create(r.Target, 4*mib))
	_, err = w.Confirm(t.Context(), r, info.Identity)
	wantKind(t, err, job.Conflict)
	check(t, errors.Join(os.RemoveAll(w.path("web")), os.Rename(w.path("moved"), w.path("web"))))
	_, err = w.Confirm(t.Context(), r, info.Identity)
	check(t, err)
}

// TestAWriteOfOthersShowsBeforeTheNextRound: after a round that was committed, and after one that failed.
func TestAWriteOfOthersShowsBeforeTheNextRound(t *testing.T) {
	for name, change := range map[string]func(path string) error{
		"":                func(string) error { return nil },
		"another process": func(path string) error { scribble(t, path, 3, []byte("foreign")); return nil },
		"is not the one": func(path string) error {
			return errors.Join(os.Remove(path), volumes.Create(path, 4*mib))
		},
		"cut short":                func(path string) error { return os.Truncate(path, mib) },
		"another process has also": func(path string) error { return os.Chmod(path, 0o640) },
	} {
		w := newWorld(t)
		r := ref(w.path("disk.raw"))
		w.written(r, "50-1")
		w.ended["job-1"] = true
		w.restart()
		check(t, change(r.Target))
		r.Job = "job-2"
		check(t, w.claims(r, "50-1"))
		info, err := w.Open(t.Context(), r)
		check(t, err)
		name, _, _ := strings.Cut(name, " has also")
		if (info.Foreign == "") != (name == "") || !strings.Contains(info.Foreign, name) {
			t.Errorf("%q: %q", name, info.Foreign)
		}
	}
}

func TestAWriterThatWasKilledIsNoWriteOfOthersToItsOwnJob(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	info := w.written(r, "50-1")
	_, _, err := w.Handle(t.Context(), r, info.Identity, true, true)
	check(t, err)
	scribble(t, r.Target, 0, []byte("ours, not settled"))
	w.restart()
	_, zero, err := w.Handle(t.Context(), r, info.Identity, true, true)
	check(t, err)
	if zero {
		t.Error("zeros are believed of a target that a killed writer left")
	}
	check(t, w.Settle(t.Context(), r))
	_, err = w.Confirm(t.Context(), r, info.Identity)
	check(t, err)
}

// TestWhatALaterRoundWroteIsRemembered whether it is committed or not.
func TestWhatALaterRoundWroteIsRemembered(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	r.ChangeID = "52 a/7"
	info := w.written(r, "50-1")
	r.ChangeID = "52 a/9"
	_, _, err := w.Handle(t.Context(), r, info.Identity, false, false) // reads only
	check(t, err)
	now, err := w.Open(t.Context(), r)
	check(t, err)
	if now.ChangeID != "52 a/7" {
		t.Errorf("after a reader: %q", now.ChangeID)
	}
	_, _, err = w.Handle(t.Context(), r, info.Identity, false, true)
	check(t, err)
	w.restart()
	now, err = w.Open(t.Context(), r)
	check(t, err)
	if now.ChangeID != "52 a/9" {
		t.Errorf("after a writer that was killed: %q", now.ChangeID)
	}
}

// TestAWriteBetweenTwoAttemptsIsNoticed: the job was paused.
func TestAWriteBetweenTwoAttemptsIsNoticed(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	info := w.written(r, "50-1")
	scribble(t, r.Target, mib, []byte("foreign"))
	for _, write := range []bool{true, false} {
		_, _, err := w.Handle(t.Context(), r, info.Identity, true, write)
		wantKind(t, err, job.Conflict)
	}
}

func TestWhatMayNotBeATargetIsNotClaimed(t *testing.T) {
	w := newWorld(t)
	small, outside := w.path("small"), dirty(t, 5*mib)
	check(t, os.WriteFile(small, make([]byte, mib), 0o600))
	fifo := w.path("fifo")
	check(t, unix.Mkfifo(fifo, 0o600))
	check(t, os.WriteFile(w.path("file"), nil, 0o600))
	for name, tc := range map[string]struct {
		target string
		kind   job.Kind
	}{
		"too small":          {small, job.Invalid},
		"not below a root":   {outside, job.Permission},
		"a FIFO":             {fifo, job.Invalid},
		"a folder":           {w.dir, job.Invalid},
		"below a file":       {w.path("file/disk.raw"), job.Invalid},
		"not an allowed URI": {"nbd://host/export", job.Permission},
		"no name":            {"-", job.Invalid},
	} {
		if err := w.claims(ref(tc.target), "50-1"); job.KindOf(err) != tc.kind {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := w.Check(t.Context(), claim(ref(tc.target), "50-1")); job.KindOf(err) != tc.kind {
			t.Errorf("check of %s: %v", name, err)
		}
	}
	if rows, err := w.ledger.Volumes(t.Context()); err != nil || len(rows) > 0 {
		t.Errorf("the ledger has %v (%v)", rows, err)
	}
}

func TestOnlyWhatTheJobMadeIsPurged(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(w *world, r job.VolumeRef)
		kind   job.Kind
		gone   bool
	}{
		"the file that it made": {func(*world, job.VolumeRef) {}, "", true},
		"gone already":          {func(_ *world, r job.VolumeRef) { check(t, os.Remove(r.Target)) }, "", true},
		"another file in its place": {func(_ *world, r job.VolumeRef) {
			check(t, errors.Join(os.Rename(r.Target, r.Target+".old"), volumes.Create(r.Target, mib)))
		}, job.Conflict, false},
		"a link in its place": {func(_ *world, r job.VolumeRef) {
			check(t, errors.Join(os.Rename(r.Target, r.Target+".old"), os.Symlink(r.Target+".old", r.Target)))
		}, job.Conflict, false},
		"a link to a stranger's file": {func(_ *world, r job.VolumeRef) {
			check(t, errors.Join(os.Remove(r.Target), os.Symlink(dirty(t, mib), r.Target)))
		}, job.Permission, false},
	} {
		w := newWorld(t)
		r := ref(w.path("disk.raw"))
		w.prepared(r, "50-1")
		w.restart()
		tc.change(w, r)
		if err := w.Purge(t.Context(), r); job.KindOf(err) != tc.kind {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(r.Target); (err != nil) != tc.gone {
			t.Errorf("%s: %v", name, err)
		}
		if tc.gone {
			check(t, w.Purge(t.Context(), r)) // again
		}
	}
	w := newWorld(t)
	r := ref(w.path("there.raw"))
	check(t, volumes.Create(r.Target, 4*mib))
	w.prepared(r, "50-1")
	check(t, w.Purge(t.Context(), r))
	if _, err := os.Stat(r.Target); err != nil {
		t.Error("a target that was there before the job was removed")
	}
}

func TestALazyTargetThatTookNothingIsRemoved(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk.raw")
	for _, begun := range []bool{false, true} {
		l := volumes.NewLazy(path, true, nbd.TLS{})
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
	l := volumes.NewLazy(path, true, nbd.TLS{}) // there already: it stays whatever happens
	_, err := l.Open(t.Context(), 3*mib)
	check(t, err)
	check(t, l.End(false))
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestAfterARestartOnlyTheTargetOfTheRoundIsConfirmed(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	info := w.written(r, "50-1")
	w.restart()
	_, err := w.Confirm(t.Context(), r, info.Identity)
	check(t, err)
	w.restart()
	check(t, os.Rename(r.Target, r.Target+".moved"))
	check(t, volumes.Create(r.Target, 4*mib))
	_, err = w.Confirm(t.Context(), r, info.Identity)
	wantKind(t, err, job.Conflict)
}

func TestATransferThatWasCancelledOpensNoTarget(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	w.prepared(r, "50-1")
	w.Release("job-1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := w.Handle(ctx, r, "", false, true)
	wantKind(t, err, job.Cancelled)
	w.restart()
	_, err = w.Open(t.Context(), r)
	check(t, err)
}

// TestACopyThatBeginsAnewWritesZerosToATargetThatWasMade: the target was made for this round, but it has been written
// since. A copy whose checkpoint was refused knows nothing of it.
func TestACopyThatBeginsAnewWritesZerosToATargetThatWasMade(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	source := filepath.Join(t.TempDir(), "source")
	want := append(bytes.Repeat([]byte{7}, 2*mib), make([]byte, 2*mib)...)
	check(t, os.WriteFile(source, want, 0o600))
	info := w.prepared(r, "50-1")
	handle, zero, err := w.Handle(t.Context(), r, info.Identity, info.Zero, true)
	check(t, err)
	if !info.Zero || !zero {
		t.Error("a target that was just made is not known to be zero")
	}
	_, err = nbd.Copy(t.Context(), nbd.Task{Source: source, Target: handle, TargetIsZero: zero}, &nbd.Meter{})
	check(t, err)
	scribble(t, r.Target, 0, bytes.Repeat([]byte{0xEE}, 4*mib))
	_, err = nbd.Copy(t.Context(), nbd.Task{
		Source: source, Target: handle, Allocated: job.Extents{{Offset: 0, Length: 2 * mib}},
	}, &nbd.Meter{})
	check(t, err)
	if got, _ := os.ReadFile(r.Target); !bytes.Equal(got, want) {
		t.Error("rubbish is left where the source is zero")
	}
	if now, err := w.Open(t.Context(), r); err != nil || now.Zero {
		t.Errorf("a target that holds data counts as zero (%v)", err)
	}
}
