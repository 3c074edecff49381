package actors_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// TestMain ignores a goroutine of protoactor's that ends by itself, a second after a message without a receiver.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction(
		"github.com/asynkron/protoactor-go/actor.NewDeadLetter.NewThrottle.func4.1"))
}

func unavailable(text string) error { return job.Errorf("read", job.Unavailable, "", "%s", text) }

func TestAJobMovesAllDisksAndLeavesNoSnapshot(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		id := w.submit("web", job.Options{Verify: job.VerifySample})
		w.pass(3 * time.Minute)
		st := w.want(id, job.Completed)
		if w.vcenter.count() != 0 || st.HeldSnapshot.Name != "" {
			t.Errorf("snapshots left: %v, %+v", w.vcenter.snapshots, st.HeldSnapshot)
		}
		if set := w.journal.sets["uuid-web"]; set == nil || len(set.Disks) != 2 || set.Disks[0].ChangeID != "52/1" {
			t.Errorf("checkpoint set %+v", set)
		}
		r := w.sink.last()
		if r.OverallPercent != 100 || r.Status != job.StatusCompleted || r.BytesTransferred != 200*mib ||
			r.BytesResent != 0 || r.Disks[1].BytesVerified != 100*mib {
			t.Errorf("last report: %s %.2f %% %d bytes, %d resent", r.Status, r.OverallPercent, r.BytesTransferred,
				r.BytesResent)
		}
		if w.copies.verified["disk-2001"] != 1 {
			t.Error("disk-2001 was not verified")
		}
	})
}

func TestNumbersNeverDecreaseAndVersionsGrow(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.copies.failDisk("disk-2000", 37, unavailable("nbdkit died"))
		w.copies.failDisk("disk-2000", 58, unavailable("nbdkit died"))
		w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(4 * time.Minute)
		var before report.Report
		moving := 0
		for _, r := range w.sink.reports() {
			if r.Version() == before.Version() {
				continue // sent again by a refill
			}
			if r.Version().Less(before.Version()) {
				continue // an older one, sent again by a refill
			}
			if r.OverallPercent < before.OverallPercent || r.BytesTransferred < before.BytesTransferred ||
				r.BytesResent < before.BytesResent {
				t.Fatalf("numbers decreased from %v to %v", before.Version(), r.Version())
			}
			if r.BytesTransferred > before.BytesTransferred {
				moving++
			}
			before = r
		}
		if before.Status != job.StatusCompleted || moving < 50 {
			t.Errorf("ended %s after %d steps", before.Status, moving)
		}
		if got := before.Disks[0]; got.Restarts != 2 || got.BytesResent != (7+8)*mib {
			t.Errorf("restarts %d, resent %d MiB", got.Restarts, got.BytesResent>>20)
		}
		if d := cmp.Diff([]int64{0, 30, 50}, w.copies.startsOf("disk-2000")); d != "" {
			t.Errorf("starts (-want +got):\n%s", d)
		}
		if d := cmp.Diff([]int64{0}, w.copies.startsOf("disk-2001")); d != "" {
			t.Errorf("the sibling was disturbed (-want +got):\n%s", d)
		}
	})
}

func TestAPanicOfACopyFailsItsAttemptOnly(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.copies.panicAt = 25
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(3 * time.Minute)
		st := w.want(id, job.Completed)
		if c := st.Disks[0].LastCause; c == nil || c.Kind != job.Internal ||
			!strings.Contains(c.Message, "out of cheese") {
			t.Errorf("cause %+v", c)
		}
		if st.Disks[0].Restarts != 1 {
			t.Errorf("restarts %d", st.Disks[0].Restarts)
		}
	})
}

func TestADiskThatFailsForGoodDoesNotStopItsSibling(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.copies.failDisk("disk-2000", 10, job.Errorf("write", job.Permission, "Make room", "the target is full"))
		id := w.submit("web", job.Options{})
		w.pass(4 * time.Minute)
		st := w.want(id, job.Failed)
		if st.Disks[1].Phase != job.DiskCopied || st.Failure.Kind != job.Permission ||
			!strings.HasPrefix(st.Failure.Next, "Make room. vmferry retry "+string(id)+" --disk disk-2000 ") {
			t.Errorf("sibling %s, failure %+v", st.Disks[1].Phase, st.Failure)
		}
		if w.vcenter.count() != 0 || w.journal.sets["uuid-web"] != nil {
			t.Error("a failed round left a snapshot or a checkpoint set")
		}
		w.command(id, job.Retry)
		w.pass(4 * time.Minute)
		w.want(id, job.Completed)
	})
}

func TestASecondRoundMovesOnlyWhatChanged(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		id := w.submit("web", job.Options{Cutover: job.CutoverManual})
		w.pass(3 * time.Minute)
		w.want(id, job.Waiting)
		if w.vcenter.count() != 0 {
			t.Error("a waiting job holds a snapshot")
		}
		overall := w.sink.last().OverallPercent
		w.command(id, job.Sync)
		w.pass(time.Minute)
		w.want(id, job.Waiting)
		w.command(id, job.CutoverNow)
		w.pass(time.Minute)
		st := w.want(id, job.Completed)
		for i, want := range []struct {
			mode  job.Mode
			bytes int64
		}{{job.Full, 200 * mib}, {job.Incremental, 10 * mib}, {job.Incremental, 10 * mib}} {
			if r := st.Rounds[i]; r.Mode != want.mode || r.Counters.Transferred != want.bytes ||
				r.Counters.ToTransfer != want.bytes {
				t.Errorf("round %d: %s, %d of %d bytes", r.Number, r.Mode, r.Counters.Transferred,
					r.Counters.ToTransfer)
			}
		}
		if overall <= 50 || overall >= 100 {
			t.Errorf("overall %.2f %% while waiting", overall)
		}
		other := w.submit("web", job.Options{})
		w.pass(time.Minute)
		if st := w.want(other, job.Completed); st.Rounds[0].Mode != job.Incremental {
			t.Errorf("a new job of the same VM went %s", st.Rounds[0].Mode)
		}
	})
}

func TestPauseResumeAndCancel(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.copies.slowStop = 3 * time.Second
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(35 * time.Second)
		w.command(id, job.Pause)
		w.pass(time.Hour)
		if st := w.want(id, job.Transfer); st.Status() != job.Paused || w.vcenter.count() != 1 {
			t.Errorf("%s, %d snapshots", st.Status(), w.vcenter.count())
		}
		if h := w.sink.last().Health; slices.Contains(h, report.Stalled) || slices.Contains(h, report.Stale) {
			t.Errorf("a paused job shows as %v", h)
		}
		w.command(id, job.Resume)
		w.pass(5 * time.Second)
		if got := w.copies.startsOf("disk-2000"); len(got) != 2 || got[1] == 0 {
			t.Errorf("starts %v", got)
		}
		w.command(id, job.Cancel)
		w.pass(10 * time.Second)
		w.want(id, job.PhaseCancelled)
		if w.vcenter.count() != 0 {
			t.Error("a cancelled job holds a snapshot")
		}
		pause := job.CommandReceived{Verb: job.Pause}
		if err := w.node.Command(t.Context(), id, pause); job.KindOf(err) != job.Conflict ||
			!strings.Contains(job.NextOf(err), "retry") {
			t.Errorf("pause of a cancelled job: %v; %s", err, job.NextOf(err))
		}
		if err := w.node.Command(t.Context(), "job-unknown", pause); job.KindOf(err) != job.NotFound {
			t.Errorf("pause of an unknown job: %v", err)
		}
		w.command(id, job.Delete)
		err := w.node.Command(t.Context(), id, job.CommandReceived{Verb: job.Delete})
		if job.KindOf(err) != job.NotFound {
			t.Errorf("deleted twice: %v", err)
		}
	})
}

func TestADaemonThatIsStoppedAnywhereGoesOn(t *testing.T) {
	for _, at := range []time.Duration{
		500 * time.Millisecond, 1500 * time.Millisecond, 2500 * time.Millisecond,
		3500 * time.Millisecond, 40 * time.Second, 104 * time.Second, 108 * time.Second, 110 * time.Second,
	} {
		t.Run(at.String(), func(t *testing.T) {
			inWorld(t, 2, func(w *world) {
				id := w.submit("web", job.Options{Verify: job.VerifyFull})
				w.pass(at)
				before := w.sink.last()
				w.stop()
				w.start()
				w.pass(5 * time.Minute)
				w.want(id, job.Completed)
				if w.vcenter.count() != 0 || w.vcenter.taken != 1 {
					t.Errorf("%d snapshots taken, %d left", w.vcenter.taken, w.vcenter.count())
				}
				after := w.sink.last()
				if after.OverallPercent != 100 || !before.Version().Less(after.Version()) {
					t.Errorf("%.2f %%, version %v after %v", after.OverallPercent, after.Version(), before.Version())
				}
			})
		})
	}
}

func TestStopWaitsForTheCopyToEnd(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.copies.slowStop = 7 * time.Second
		w.submit("web", job.Options{})
		w.pass(20 * time.Second)
		begun := time.Now()
		w.stop()
		if took := time.Since(begun); took < 7*time.Second || w.copies.writers["/targets/web/disk-2000.raw"] != 0 {
			t.Errorf("stopped after %v with %d writers", took, w.copies.writers["/targets/web/disk-2000.raw"])
		}
		w.start()
	})
}

func TestASinkThatIsSlowOrDeadDelaysNothingAndIsCaughtUp(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.sink.set(4*time.Second, nil)
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		w.sink.set(0, unavailable("connection refused"))
		w.pass(30 * time.Second)
		if s := w.node.Sinks(); s[0].Down || !s[1].Down || s[1].Err == "" {
			t.Errorf("sink health %+v", s)
		}
		calls, _ := w.sink.count()
		w.pass(45 * time.Second)
		if now, _ := w.sink.count(); now-calls > 45 {
			t.Errorf("%d calls in 45 s to a sink that is dead", now-calls)
		}
		w.want(id, job.Completed) // 104 s, as with a sink that works
		w.sink.set(0, nil)
		w.pass(10 * time.Second)
		if r := w.sink.last(); r.Status != job.StatusCompleted || slices.Contains(r.Health, report.Degraded) {
			t.Errorf("10 s after its return the sink has %s %v", r.Status, r.Health)
		}
		_, n := w.sink.count()
		w.pass(12 * time.Second)
		if _, now := w.sink.count(); now == n {
			t.Error("a sink that lost its reports gets none again")
		}
	})
}

func TestAJobDoesNothingNewWhileItsJournalCannotWrite(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		w.journal.breakWith(job.Errorf("save", job.NoSpace, "", "disk full"))
		w.pass(3 * time.Minute)
		w.want(id, job.Transfer)
		if w.vcenter.count() != 1 {
			t.Error("the snapshot was removed although the state that asks for it is not durable")
		}
		w.journal.breakWith(nil)
		w.pass(30 * time.Second)
		w.want(id, job.Completed)
	})
}

func TestStepsAreRetriedOnlyForRetryableKinds(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.vcenter.failNext("snapshot", unavailable("vCenter restarts"), unavailable("vCenter restarts"))
		w.vcenter.failNext("remove", unavailable("vCenter restarts"))
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(5 * time.Minute)
		w.want(id, job.Completed)
		w.vcenter.failNext("inspect", job.Errorf("find VM", job.NotFound, "Look at the name", "no VM db"))
		id = w.submit("db", job.Options{})
		w.pass(5 * time.Second)
		if st := w.want(id, job.Failed); st.Failure.Next != "Look at the name" || st.Step.Attempt != 0 {
			t.Errorf("failure %+v", st.Failure)
		}
	})
}

func TestJobsBeyondTheLimitStayQueued(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		var ids []job.ID
		for _, vm := range []string{"a", "b", "c", "d"} {
			ids = append(ids, w.submit(vm, job.Options{Verify: job.VerifyNone}))
			w.pass(time.Millisecond)
		}
		if _, _, err := w.node.Submit(t.Context(), job.Spec{VM: "a"}, "", "", ""); job.KindOf(err) != job.Conflict {
			t.Errorf("a second job for the VM: %v", err)
		}
		w.pass(50 * time.Second)
		var phases []job.Phase
		for _, id := range ids {
			phases = append(phases, w.journal.state(id).Phase)
		}
		if d := cmp.Diff([]job.Phase{job.Transfer, job.Transfer, job.Queued, job.Queued}, phases); d != "" {
			t.Error(d)
		}
		w.pass(5 * time.Minute)
		for _, id := range ids {
			w.want(id, job.Completed)
		}
	})
}

func TestUpdatesOfOtherToolsMakeAJobKnown(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		n := int64(65536)
		update := report.Update{Stage: "Transfer", Status: "in_progress", BytesTransferred: &n, DiskID: "disk-2000"}
		if err := w.node.ExternalUpdate(t.Context(), "job-x", update); err != nil {
			t.Fatal(err)
		}
		if r := w.page.last(); r.JobID != "job-x" || r.BytesTransferred != n {
			t.Errorf("when the caller is answered, the sink in this process has %s with %d bytes", r.JobID,
				r.BytesTransferred)
		}
		w.pass(time.Second)
		if r := w.sink.last(); r.JobID != "job-x" || r.Origin != report.External || r.BytesTransferred != n {
			t.Errorf("got %s %s %d", r.JobID, r.Origin, r.BytesTransferred)
		}
		bad := int64(-1)
		if err := w.node.ExternalUpdate(t.Context(), "job-y",
			report.Update{BytesTransferred: &bad}); job.KindOf(err) != job.Invalid {
			t.Errorf("negative bytes: %v", err)
		}
		if w.sink.last().JobID == "job-y" {
			t.Error("a refused update made a job known")
		}
	})
}
