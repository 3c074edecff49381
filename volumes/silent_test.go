package volumes_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/volumes"
	"github.com/vmferry/vmferry/volumes/copytest"
)

// frozenStorage mounts a file system that can stop to answer: writes to it hang in the kernel, and no signal ends them.
func frozenStorage(t *testing.T) (dir string, freeze, thaw func()) {
	t.Helper()
	need(t, "mkfs.ext4")
	if os.Geteuid() != 0 {
		t.Skip("mounting a file system needs root")
	}
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	check(t, os.WriteFile(image, nil, 0o600))
	check(t, os.Truncate(image, 64*mib))
	if out, err := exec.Command("mkfs.ext4", "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("a loop device can't be mounted here: %v: %s", err, out)
	}
	t.Cleanup(func() {
		out, err := exec.Command("umount", dir).CombinedOutput()
		if err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	const fiFreeze, fiThaw = 0xC0045877, 0xC0045878 // FIFREEZE and FITHAW of linux/fs.h
	control := func(request uint) error {
		f, err := os.Open(dir)
		check(t, err)
		defer f.Close()
		return unix.IoctlSetInt(int(f.Fd()), request, 0)
	}
	frozen := false
	thaw = func() {
		if frozen {
			check(t, control(fiThaw))
		}
		frozen = false
	}
	t.Cleanup(thaw)
	return dir, func() { check(t, control(fiFreeze)); frozen = true }, thaw
}

// TestAStorageThatDoesNotAnswerEndsNoLease holds writes of the old epoch in the kernel: the process can't be killed
// there. No other holder gets the volume before they are over, and then none of them is left to come.
func TestAStorageThatDoesNotAnswerEndsNoLease(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits until a storage counts as silent, three times")
	}
	need(t, "qemu-storage-daemon")
	dir, freeze, thaw := frozenStorage(t)
	ledger := &copytest.Ledger{Active: func(job.ID) bool { return true }}
	v := servingNode(t, dir, ledger)
	r := ref(filepath.Join(dir, "disk.raw"))
	_, err := v.Claim(t.Context(), []job.VolumeClaim{claim(r, "50-1")}, nil)
	check(t, err)
	info, err := v.Prepare(t.Context(), r)
	check(t, err)
	for range 2 {
		old := serve(t, v, r, info, "vma-1")
		h := newHostile(old.Socket, old.Export, old.Epoch, r.Capacity, 4)
		until(t, "the old holder writes", func() bool { return h.acked.Load() > 16 })
		over := volumes.Over(v, old.Volume)
		freeze()
		before := h.sent.Load()
		until(t, "writes wait in the kernel", func() bool {
			return h.sent.Load() > before || h.sent.Load() > h.acked.Load()+8
		})

		err := v.Fence(t.Context(), old.Volume, old.Epoch, job.EndExpired)
		wantKind(t, err, job.Unavailable)
		if !strings.Contains(err.Error(), "ending: the storage does not answer") {
			t.Errorf("the error is %v", err)
		}
		l := theLease(t, ledger)
		if l.State != job.LeaseEnding || l.Why != job.EndExpired || l.Note != "the storage does not answer" {
			t.Errorf("the lease is %+v", l)
		}
		_, err = v.Serve(t.Context(), r, volumes.ServeRequest{Kind: job.HolderTransfer, Node: "vma-2"})
		if err == nil {
			t.Fatal("the next holder got the volume while writes of the old one are under way")
		}
		thaw()
		<-over
		next := serve(t, v, r, info, "vma-2")
		check(t, writeAll(next.Socket, next.Export, next.Epoch, r.Capacity))
		if n := stale(t, r.Target, next.Epoch); n > 0 {
			t.Errorf("%d blocks of the old epoch", n)
		}
		h.end()
		check(t, v.Fence(t.Context(), next.Volume, next.Epoch, job.EndReturned))
	}
	v.Close(t.Context())
	if err := errors.Join(unix.Access(r.Target, unix.R_OK)); err != nil {
		t.Error(err)
	}
}
