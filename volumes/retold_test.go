package volumes_test

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/volumes"
)

// TestAJobThatWasRetriedAfterAReleaseOwnsItsVolumeAgain: what was released is free until another job claims it.
func TestAJobThatWasRetriedAfterAReleaseOwnsItsVolumeAgain(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	before := w.written(r, "50-1")
	w.Close(t.Context())
	w.ended["job-1"] = true
	check(t, w.Free(t.Context(), before.Volume))
	w.ended["job-1"] = false // retried
	after := w.written(r, "50-1")
	w.Close(t.Context())
	w.ended["job-1"] = true
	if after.Volume == before.Volume {
		t.Error("a set of before the release fits the volume")
	}
	wantKind(t, w.claims(of(r, "job-2"), "50-2"), job.Conflict)
}

// TestAMadeTargetThatOthersWroteToIsNotZero: the preparation is repeated when that of another disk failed.
func TestAMadeTargetThatOthersWroteToIsNotZero(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	w.prepared(r, "50-1")
	scribble(t, r.Target, mib, []byte("foreign"))
	_, err := w.Open(t.Context(), r)
	check(t, err)
	info, err := w.Prepare(t.Context(), r)
	check(t, err)
	_, zero, err := w.Handle(t.Context(), r, info.Identity, info.Zero, true)
	check(t, err)
	if info.Zero || zero {
		t.Errorf("zeros are believed: %v when prepared, %v when opened", info.Zero, zero)
	}
}

// TestATargetGrowsWithItsDiskWhenTheJobThatMadeItWasDeleted: vmferry made the file, whatever became of the job.
func TestATargetGrowsWithItsDiskWhenTheJobThatMadeItWasDeleted(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	w.written(r, "50-1")
	w.Close(t.Context())
	w.ended["job-1"] = true
	w.forget("job-1")
	grown := of(r, "job-2")
	grown.Capacity = 5 * mib
	w.prepared(grown, "50-1")
	if st, err := os.Stat(r.Target); err != nil || st.Size() != grown.Capacity {
		t.Errorf("%v (%v)", st, err)
	}
}

// forget is what the journal does with the rows of a deleted job.
func (w *world) forget(id job.ID) {
	w.t.Helper()
	rows, err := w.ledger.Volumes(w.t.Context())
	check(w.t, err)
	for i := range rows {
		rows[i] = rows[i].Without(id)
	}
	check(w.t, w.ledger.ChangeVolumes(w.t.Context(), rows, nil))
	w.ended[""] = true
}

// TestAMarkThatWasNotStoredIsOurs: the daemon was killed after it had marked the target, before it could store that.
func TestAMarkThatWasNotStoredIsOurs(t *testing.T) {
	for _, exists := range []bool{false, true} {
		w := newWorld(t)
		r := ref(w.path("disk.raw"))
		if exists {
			check(t, volumes.Create(r.Target, 4*mib))
		}
		check(t, w.claims(r, "50-1"))
		rows, err := w.ledger.Volumes(t.Context())
		check(t, err)
		if !exists {
			rows[0].MadeBy = r.Job
			check(t, w.ledger.ChangeVolumes(t.Context(), rows, nil))
			check(t, volumes.Create(r.Target, 4*mib))
		}
		if err := unix.Setxattr(r.Target, "user.vmferry.volume", []byte(rows[0].ID), 0); err != nil {
			t.Skipf("no marks on this file system: %v", err)
		}
		w.ended["job-1"] = true // it was cancelled
		again := of(r, "job-2")
		if err := w.claims(again, "50-1"); err != nil {
			t.Errorf("exists %v: %v", exists, err)
		}
	}
}

// TestALoopDeviceOnALoopDeviceIsOneVolumeWithIt.
func TestALoopDeviceOnALoopDeviceIsOneVolumeWithIt(t *testing.T) {
	w := newWorld(t)
	check(t, volumes.Create(w.path("a.img"), 4*mib))
	first := loop(t, w, w.path("a.img"))
	second := loop(t, w, first)
	check(t, w.claims(ref(first), "50-1"))
	wantKind(t, w.claims(of(ref(second), "job-2"), "50-2"), job.Conflict)
}

// TestALoopDeviceWhoseFileHasNoNameIsATarget, also one on another device.
func TestALoopDeviceWhoseFileCannotBeOpenedIsATarget(t *testing.T) {
	for name, device := range map[string]func(w *world) string{
		"its file has no name": func(w *world) string {
			check(t, volumes.Create(w.path("a.img"), 4*mib))
			d := loop(t, w, w.path("a.img"))
			check(t, os.Remove(w.path("a.img")))
			return d
		},
		"on a loop device": func(w *world) string {
			check(t, volumes.Create(w.path("a.img"), 4*mib))
			return loop(t, w, loop(t, w, w.path("a.img")))
		},
	} {
		w := newWorld(t)
		r := ref(device(w))
		before := w.prepared(r, "50-1")
		if _, _, err := w.Handle(t.Context(), r, before.Identity, false, true); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		scribble(t, r.Target, 0, bytes.Repeat([]byte{7}, 4*mib))
		check(t, w.Settle(t.Context(), r))
		if _, err := w.Confirm(t.Context(), r, before.Identity); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestARepeatedRequestLeavesTheRowsOfARunningJobAlone: its job may be changing them at this moment.
func TestARepeatedRequestLeavesTheRowsOfARunningJobAlone(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	info := w.prepared(r, "50-1")
	again := claim(r, "")
	again.Capacity = 0
	refused := errors.New("there is a job of that id")
	_, err := w.Claim(t.Context(), []job.VolumeClaim{again}, func(context.Context) error {
		_, _, err := w.Handle(t.Context(), r, info.Identity, info.Zero, true)
		return errors.Join(refused, err)
	})
	if !errors.Is(err, refused) {
		t.Error(err)
	}
	rows, err := w.ledger.VolumesOf(t.Context(), r.Job)
	check(t, err)
	if len(rows) != 1 || !rows[0].Writing || rows[0].Size != r.Capacity {
		t.Errorf("the ledger has %+v", rows)
	}
}

// TestAServerThatDoesNotAnswerHoldsUpNoOtherClaim.
func TestAServerThatDoesNotAnswerHoldsUpNoOtherClaim(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	w := newWorld(t, "nbd://"+silent.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	export := of(ref("nbd://"+silent.Addr().String()+"/vol"), "job-2")
	go func() {
		_, err := w.Claim(ctx, []job.VolumeClaim{claim(export, "50-2")}, nil)
		ended <- err
	}()
	c, err := silent.Accept() // the claim waits for what the server says
	check(t, err)
	claimed := make(chan error, 1)
	go func() { claimed <- w.claims(ref(w.path("disk.raw")), "50-1") }()
	select {
	case err := <-claimed:
		check(t, err)
	case <-time.After(20 * time.Second):
		t.Error("the claim of a file waits for the server of an export")
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("an export that was not seen was claimed")
	}
	check(t, errors.Join(c.Close(), silent.Close()))
}

// TestAnotherDeviceUnderItsNameIsNotOverwritten if it holds data: names of devices change.
func TestAnotherDeviceUnderItsNameIsNotOverwritten(t *testing.T) {
	w := newWorld(t)
	a, b := w.path("a.img"), dirty(t, 4*mib)
	check(t, volumes.Create(a, 4*mib))
	device := loop(t, w, a)
	r := ref(device)
	w.written(r, "50-1")
	w.Close(t.Context())
	w.allow("/dev")
	w.ended["job-1"] = true
	run(t, "losetup", "--detach", device)
	run(t, "losetup", device, b)
	next := claim(of(r, "job-2"), "50-1")
	_, err := w.Claim(t.Context(), []job.VolumeClaim{next}, nil)
	wantKind(t, err, job.Conflict)
	next.Adopt = true
	_, err = w.Claim(t.Context(), []job.VolumeClaim{next}, nil)
	check(t, err)
	info, err := w.Open(t.Context(), next.VolumeRef)
	check(t, err)
	if info.Foreign == "" {
		t.Errorf("%+v", info)
	}
	_, err = w.Prepare(t.Context(), next.VolumeRef)
	check(t, err)
}
