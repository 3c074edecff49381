package volumes_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
)

// TestATargetOfAJobThatHasNotBegunIsRefusedAtAccept: two jobs that wait, of VMs that were not looked up yet.
func TestATargetOfAJobThatHasNotBegunIsRefusedAtAccept(t *testing.T) {
	w := newWorld(t)
	waits := claim(ref(w.path("disk.raw")), "")
	waits.Owner.Name = "web"
	accept := func(c job.VolumeClaim) error {
		_, err := w.Claim(t.Context(), []job.VolumeClaim{c}, nil)
		return err
	}
	check(t, accept(waits))
	second := claim(of(ref(w.path("x/../disk.raw")), "job-2"), "")
	second.Owner.Name = "db"
	for _, second.Adopt = range []bool{false, true} {
		err := accept(second)
		if job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "web") ||
			!strings.Contains(job.NextOf(err), "job-1") {
			t.Errorf("adopt %v: %v (next: %s)", second.Adopt, err, job.NextOf(err))
		}
	}
	w.ended["job-1"] = true // nothing was written
	check(t, accept(second))
}

// TestGarbageThatWasPutIntoAPreparedTargetIsNoticed: the daemon was killed after the plan, before the first write.
func TestGarbageThatWasPutIntoAPreparedTargetIsNoticed(t *testing.T) {
	w := newWorld(t)
	r := ref(w.path("disk.raw"))
	info := w.prepared(r, "50-1")
	if !info.Zero {
		t.Error("a target that was just made is not known to be zero")
	}
	w.restart()
	_, zero, err := w.Handle(t.Context(), r, info.Identity, info.Zero, false)
	check(t, err)
	if !zero {
		t.Error("the target is as it was, and its zeros are not believed")
	}
	w.restart()
	scribble(t, r.Target, 0, bytes.Repeat([]byte{0xAA}, 4*mib))
	_, _, err = w.Handle(t.Context(), r, info.Identity, info.Zero, true)
	wantKind(t, err, job.Conflict)
	again, err := w.Open(t.Context(), r)
	check(t, err)
	if again.Zero || again.Foreign == "" {
		t.Errorf("the next round is told %+v", again)
	}
}
