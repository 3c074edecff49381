package volumes_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/volumes"
)

func of(r job.VolumeRef, id job.ID) job.VolumeRef { r.Job = id; return r }

// TestAVolumeOfAnotherVMIsRefusedByEachOfItsNames: whatever the second name of a target is, it is the same target.
func TestAVolumeOfAnotherVMIsRefusedByEachOfItsNames(t *testing.T) {
	for name, second := range map[string]func(w *world, path string) string{
		"the same path":   func(_ *world, path string) string { return path },
		"dots":            func(w *world, _ string) string { return w.dir + "/x/../disk.raw" },
		"a symbolic link": func(w *world, p string) string { return made(t, w.path("link"), os.Symlink, p) },
		"a hard link":     func(w *world, path string) string { return made(t, w.path("hard"), os.Link, path) },
		"a link to its folder": func(w *world, _ string) string {
			return made(t, w.path("dir"), os.Symlink, w.dir) + "/disk.raw"
		},
		"another name, moved": func(w *world, p string) string { return made(t, w.path("moved"), os.Rename, p) },
		"a bind mount":        func(w *world, _ string) string { return bindMount(t, w.dir) + "/disk.raw" },
		"a loop device on it": func(w *world, path string) string { return loop(t, w, path) },
		"a link to a loop on it": func(w *world, p string) string {
			return made(t, w.path("l"), os.Symlink, loop(t, w, p))
		},
	} {
		for _, ended := range []bool{false, true} {
			w := newWorld(t)
			r := ref(w.path("disk.raw"))
			w.written(r, "50-1")
			w.Release("job-1")
			w.ended["job-1"] = ended
			check(t, os.MkdirAll(w.path("x"), 0o700))
			other := of(ref(second(w, r.Target)), "job-2")
			err := w.claims(other, "50-2")
			if job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "/DC0/vm/50-1") ||
				!strings.Contains(err.Error(), "job-1") || job.NextOf(err) == "" {
				t.Errorf("%s (ended: %v): %v", name, ended, err)
			}
		}
	}
}

// made makes a name for a path.
func made(t *testing.T, name string, how func(path, name string) error, path string) string {
	t.Helper()
	check(t, how(path, name))
	return name
}

// bindMount is a second place of a folder, below it.
func bindMount(t *testing.T, dir string) string {
	t.Helper()
	at := filepath.Join(dir, "mounted")
	check(t, os.Mkdir(at, 0o700))
	if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
		cannot(t, "mount", err)
	}
	t.Cleanup(func() { check(t, unix.Unmount(at, unix.MNT_DETACH)) })
	return at
}

// cannot skips a test that this machine does not let run.
func cannot(t *testing.T, what string, err error) {
	t.Helper()
	if errors.Is(err, unix.EPERM) || errors.Is(err, exec.ErrNotFound) {
		t.Skipf("%s: %v", what, err)
	}
	t.Fatal(err)
}

// loop attaches a loop device to a file. The world's folder becomes one of the folders that may be written to.
func loop(t *testing.T, w *world, path string, more ...string) string {
	t.Helper()
	need(t, "losetup")
	out, err := exec.CommandContext(t.Context(), "losetup", append(more, "--find", "--show", path)...).CombinedOutput()
	if err != nil {
		t.Skipf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		w.Close(t.Context())
		_ = exec.Command("losetup", "--detach", device).Run()
	})
	w.allow("/dev")
	return device
}

// allow makes another folder one that may be written to.
func (w *world) allow(root string) {
	w.Close(w.t.Context())
	w.Volumes = volumes.New(volumes.Allow{Roots: []string{w.dir, root}}, w.ledger, nil)
}

// TestAVolumeWhoseJobWasDeletedStillHasItsOwner also for a check that is made before there is a job.
func TestAVolumeWhoseJobWasDeletedStillHasItsOwner(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	w.written(r, "50-1")
	w.Release("job-1")
	w.ended["job-1"], w.ended[""] = true, true
	rows, err := w.ledger.Volumes(t.Context())
	check(t, err)
	rows[0].Job, rows[0].MadeBy = "", ""
	check(t, w.ledger.ChangeVolumes(t.Context(), rows, nil))
	_, err = w.Check(t.Context(), claim(of(r, ""), "50-2"))
	wantKind(t, err, job.Conflict)
	_, err = w.Check(t.Context(), claim(of(r, ""), "50-1"))
	check(t, err)
	wantKind(t, w.claims(of(r, "job-2"), "50-2"), job.Conflict)
}

func TestTwoDisksOfAJobHaveTwoTargets(t *testing.T) {
	w := newWorld(t)
	first, second := ref(w.path("a/disk.raw")), ref(w.path("b/disk.raw"))
	second.Disk = "disk-2001"
	check(t, os.MkdirAll(w.path("a"), 0o700))
	check(t, os.Symlink("a", w.path("b")))
	_, err := w.Claim(t.Context(), []job.VolumeClaim{claim(first, "50-1"), claim(second, "50-1")}, nil)
	wantKind(t, err, job.Invalid)
	if rows, _ := w.ledger.Volumes(t.Context()); len(rows) != 0 {
		t.Errorf("some were claimed: %v", rows)
	}
}

func TestExportsAreComparedByWhatTheirURIsMean(t *testing.T) {
	w := newWorld(t, "nbd://10.0.0.1", "nbd://storage.example", "nbd+unix:///?socket=/run")
	unseen := func(uri, id string) error { // at accept: nothing is known of the VM, no server is asked
		c := claim(of(ref(uri), job.ID(id)), "")
		_, err := w.Claim(t.Context(), []job.VolumeClaim{c}, nil)
		return err
	}
	check(t, unseen("nbd://storage.example/vol-a", "job-1"))
	check(t, unseen("nbd+unix:///vol-a?socket=/run/s", "job-1b"))
	for _, uri := range []string{
		"nbd://storage.example/vol-a", "nbd://STORAGE.example/vol-a", "nbd://storage.example/vol%2Da",
		"nbd+unix:///vol-a?socket=%2Frun%2Fs", "nbd+unix:///vol-a?socket=/run/../run/s",
	} {
		if err := unseen(uri, "job-2"); job.KindOf(err) != job.Conflict {
			t.Errorf("%s: %v", uri, err)
		}
	}
	for _, uri := range []string{
		"nbd://storage.example/vol-b", "nbd://10.0.0.1/vol-a", "nbd+unix:///vol-b?socket=/run/s",
	} {
		if err := unseen(uri, "job-3"); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// TestTheNextJobOfAVMTakesItsVolumeOver, also when the VM has another name by then, or the folder has moved.
func TestTheNextJobOfAVMTakesItsVolumeOver(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("web_50-1/disk-2000.raw"))
	before := w.written(r, "50-1")
	w.Close(t.Context())
	w.ended["job-1"] = true
	known, err := w.Known(t.Context(), job.VolumeOwner{VM: "50-1"})
	check(t, err)
	if known["disk-2000"] != r.Target {
		t.Errorf("known %v", known)
	}
	check(t, os.Rename(w.path("web_50-1"), w.path("renamed")))
	moved := of(ref(w.path("renamed/disk-2000.raw")), "job-2")
	c := claim(moved, "50-1")
	c.Owner.Name = "/DC0/vm/renamed"
	_, err = w.Claim(t.Context(), []job.VolumeClaim{c}, nil)
	check(t, err)
	info, err := w.Open(t.Context(), moved)
	check(t, err)
	if info.Volume != before.Volume || info.Foreign != "" || !info.Exists {
		t.Errorf("before %+v, now %+v", before, info)
	}
	rows, err := w.All(t.Context())
	check(t, err)
	if len(rows) != 1 || rows[0].Target != moved.Target || rows[0].Owner.Name != "/DC0/vm/renamed" {
		t.Errorf("the ledger has %+v", rows)
	}
}

// TestAVolumeIsTakenOverOnPurposeOnly: then it is another volume, so that no set of the first VM fits it any more.
func TestAVolumeIsTakenOverOnPurposeOnly(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	before := w.written(r, "50-1")
	w.Release("job-1")
	adopting := claim(of(r, "job-2"), "50-2")
	adopting.Adopt = true
	_, err := w.Claim(t.Context(), []job.VolumeClaim{adopting}, nil)
	wantKind(t, err, job.Conflict) // job-1 has not ended
	w.ended["job-1"] = true
	infos, err := w.Claim(t.Context(), []job.VolumeClaim{adopting}, nil)
	check(t, err)
	if infos[0].Volume == before.Volume || !strings.Contains(infos[0].Note, "50-1") || !infos[0].Renewed {
		t.Errorf("%+v", infos[0])
	}
	w.ended["job-2"] = true
	if err := w.claims(of(r, "job-3"), "50-1"); job.KindOf(err) != "" {
		t.Logf("nothing was written by job-2: %v", err)
	}
}

func TestAReleasedVolumeIsFree(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	before := w.written(r, "50-1")
	wantKind(t, w.Free(t.Context(), before.Volume), job.Conflict)
	wantKind(t, w.Free(t.Context(), "none"), job.NotFound)
	w.Release("job-1")
	w.ended["job-1"] = true
	check(t, w.Free(t.Context(), before.Volume))
	check(t, w.Free(t.Context(), before.Volume))
	infos, err := w.Claim(t.Context(), []job.VolumeClaim{claim(of(r, "job-2"), "50-1")}, nil)
	check(t, err)
	if infos[0].Volume == before.Volume || !infos[0].Renewed {
		t.Errorf("%+v", infos[0])
	}
}

func TestATargetWithDataIsNotFree(t *testing.T) {
	w := newWorld(t)
	for name, tc := range map[string]struct {
		write func(path string)
		kind  job.Kind
	}{
		"holes":                 {func(string) {}, ""},
		"zeros":                 {func(path string) { scribble(t, path, 0, make([]byte, 4*mib)) }, ""},
		"a table of partitions": {func(path string) { scribble(t, path, 510, []byte{0x55, 0xAA}) }, job.Conflict},
		"data at its end":       {func(p string) { scribble(t, p, 4*mib-512, []byte("EFI PART")) }, job.Conflict},
		"data in the middle": {func(path string) {
			scribble(t, path, 2*mib, bytes.Repeat([]byte{1}, 64<<10))
		}, job.Conflict},
		"a qcow2 image": {func(path string) {
			scribble(t, path, 0, []byte("QFI\xfb\x00\x00\x00\x03"))
		}, job.Conflict},
		"the mark of a stranger": {func(path string) { marked(t, path) }, job.Conflict},
	} {
		path := w.path(strings.ReplaceAll(name, " ", "-"))
		check(t, volumes.Create(path, 4*mib))
		tc.write(path)
		r := of(ref(path), job.ID("job-"+strings.ReplaceAll(name, " ", "")))
		if err := w.claims(r, "50-1"); job.KindOf(err) != tc.kind {
			t.Errorf("%s: %v", name, err)
		}
		c := claim(r, "50-1")
		c.Adopt = true
		infos, err := w.Claim(t.Context(), []job.VolumeClaim{c}, nil)
		check(t, err)
		if (infos[0].Note != "") != (tc.kind != "") {
			t.Errorf("%s: note %q", name, infos[0].Note)
		}
	}
}

func TestATargetThatWouldBeNamedAsAnImageIsNotMade(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"disk.qcow2", "disk.vmdk", "disk.VHDX"} {
		wantKind(t, w.claims(ref(w.path(name)), "50-1"), job.Invalid)
	}
	check(t, w.claims(ref(w.path("disk-flat.vmdk")), "50-1"))
}

func marked(t *testing.T, path string) {
	t.Helper()
	if err := unix.Setxattr(path, "user.vmferry.volume", []byte("stranger"), 0); err != nil {
		t.Skipf("no marks on this file system: %v", err)
	}
}

// TestWhatAppearedAfterTheClaimIsNotOverwritten: nothing was at the path when the job claimed it.
func TestWhatAppearedAfterTheClaimIsNotOverwritten(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	check(t, w.claims(r, "50-1"))
	check(t, os.WriteFile(r.Target, bytes.Repeat([]byte("precious"), mib/2), 0o600))
	_, err := w.Open(t.Context(), r)
	check(t, err)
	_, err = w.Prepare(t.Context(), r)
	wantKind(t, err, job.Conflict)
	other := of(ref(w.path("other.raw")), "job-2")
	w.written(other, "50-2")
	w.Release("job-2")
	check(t, os.Remove(r.Target))
	w.restart()
	check(t, os.Rename(other.Target, r.Target))
	_, err = w.Open(t.Context(), r)
	check(t, err)
	_, err = w.Prepare(t.Context(), r)
	if job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "50-2") {
		t.Errorf("the volume of another VM was moved here: %v", err)
	}
}

// TestAPathThatBecameALinkIsNotFollowed out of the folder, however late it became one.
func TestAPathThatBecameALinkIsNotFollowed(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("web/disk.raw"))
	check(t, w.claims(r, "50-1"))
	outside := t.TempDir()
	check(t, os.WriteFile(filepath.Join(outside, "disk.raw"), make([]byte, 4*mib), 0o600))
	check(t, os.Symlink(outside, w.path("web")))
	_, err := w.Open(t.Context(), r)
	wantKind(t, err, job.Permission)
	_, err = w.Prepare(t.Context(), r)
	wantKind(t, err, job.Permission)
	check(t, os.Remove(w.path("web")))
	check(t, os.Mkdir(w.path("web"), 0o700))
	check(t, os.Symlink(filepath.Join(outside, "disk.raw"), r.Target))
	_, err = w.Open(t.Context(), r)
	wantKind(t, err, job.Permission)
}

func TestAClaimThatIsNotAcceptedLeavesTheLedgerAsItWas(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	w.written(r, "50-1")
	w.Release("job-1")
	before, err := w.ledger.Volumes(t.Context())
	check(t, err)
	refused := errors.New("refused")
	other := claim(ref(w.path("b.raw")), "")
	refuse := func(context.Context) error { return refused }
	_, err = w.Claim(t.Context(), []job.VolumeClaim{claim(r, "50-1"), other}, refuse)
	if !errors.Is(err, refused) {
		t.Error(err)
	}
	after, err := w.ledger.Volumes(t.Context())
	check(t, err)
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("before %v\nafter %v", before, after)
	}
}

// TestALoopDeviceIsKnownByItsFile: attached elsewhere it is another volume, and a write to the file is a write to it.
func TestALoopDeviceIsKnownByItsFile(t *testing.T) {
	w := newWorld(t)
	a, b := w.path("a.img"), w.path("b.img")
	check(t, errors.Join(volumes.Create(a, 4*mib), volumes.Create(b, 4*mib)))
	device := loop(t, w, a)
	r := ref(device)
	before := w.prepared(r, "50-1")
	_, _, err := w.Handle(t.Context(), r, before.Identity, false, true)
	check(t, err)
	scribble(t, device, 0, bytes.Repeat([]byte{7}, 4*mib))
	check(t, w.Settle(t.Context(), r))
	_, err = w.Confirm(t.Context(), r, before.Identity)
	check(t, err)
	w.ended["job-1"] = true
	next := func(id job.ID) job.TargetInfo {
		t.Helper()
		check(t, w.claims(of(r, id), "50-1"))
		info, err := w.Open(t.Context(), of(r, id))
		check(t, err)
		w.Close(t.Context())
		w.allow("/dev")
		w.ended[id] = true
		return info
	}
	w.Close(t.Context())
	w.allow("/dev")
	if got := next("job-2"); got.Foreign != "" || got.Volume != before.Volume {
		t.Errorf("nothing was done: %+v", got)
	}
	run(t, "losetup", "--detach", device)
	run(t, "losetup", device, a)
	if got := next("job-3"); got.Foreign != "" || got.Volume != before.Volume {
		t.Errorf("attached again to its file: %+v", got)
	}
	run(t, "losetup", "--detach", device)
	run(t, "losetup", device, b)
	if got := next("job-4"); !strings.Contains(got.Foreign, "not the one") {
		t.Errorf("attached to another file: %+v", got)
	}
	run(t, "losetup", "--detach", device)
	run(t, "losetup", device, a)
	scribble(t, a, mib, []byte("not by the device"))
	if got := next("job-5"); !strings.Contains(got.Foreign, "another process") {
		t.Errorf("its file was written: %+v", got)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}
