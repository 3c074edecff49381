package actors_test

import (
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

func TestOnlySnapshotsOfThisNodeThatNoJobHoldsAreRemoved(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{Cutover: job.CutoverManual, Bandwidth: 0})
		w.pass(20 * time.Second) // it copies, and needs its snapshot
		held := w.journal.state(id).HeldSnapshot
		if held.Ref == "" || held.Mark == "" || !w.vcenter.has(held.Ref) {
			t.Fatalf("the job holds %+v", held)
		}
		orphans := []string{
			w.vcenter.put("node-1", "vmferry-"+string(id)+"-7", held.Mark+"7"), // of another round
			w.vcenter.put("node-1", "vmferry-job-forgotten-1", "forgotten.1"),  // of a deleted job
			w.vcenter.put("node-1", "vmferry/job-forgotten/1", ""),             // of one of a version without marks
		}
		others := []string{
			w.vcenter.put("node-2", "vmferry-job-elsewhere-1", "elsewhere.1"),
			// another node has a job of the same id
			w.vcenter.put("node-2", "vmferry-"+string(id)+"-9", "another.9"),
			w.vcenter.put("node-2", "vmferry/"+string(id)+"/9", ""),
			w.vcenter.put("", "vmferry/"+string(id)+"/8", ""), // it names no node
			w.vcenter.put("", "by hand", ""),
			w.vcenter.put("node-1", held.Name, "another.1"), // a name that a job holds
			w.vcenter.put("node-1", "renamed", held.Mark),   // a mark that a job holds
		}
		w.pass(65 * time.Second)
		for i, ref := range orphans {
			if w.vcenter.has(ref) {
				t.Errorf("orphan %d is still there", i)
			}
		}
		for i, ref := range others {
			if !w.vcenter.has(ref) {
				t.Errorf("snapshot %d of others is gone", i)
			}
		}
		if st := w.journal.state(id); st.HeldSnapshot.Ref != held.Ref || !w.vcenter.has(held.Ref) {
			t.Errorf("the job holds %+v, and its snapshot is gone: %v", st.HeldSnapshot, !w.vcenter.has(held.Ref))
		}
	})
}

// Its frozen files may be written from then on, so what was read since may be of a later instant.
func TestARoundWhoseSnapshotAnotherProgramRemovedIsNotCommitted(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{Verify: job.VerifyFull})
		w.pass(20 * time.Second)
		w.vcenter.lose(w.want(id, job.Transfer).HeldSnapshot.Ref)
		w.pass(5 * time.Minute)
		st := w.want(id, job.Failed)
		if st.Failure.Kind != job.Conflict || !strings.Contains(st.Failure.Message, "was removed") {
			t.Errorf("failure %+v", st.Failure)
		}
		if set, err := w.journal.Set(t.Context(), "uuid-web"); err != nil || set != nil {
			t.Errorf("set %+v, %v", set, err)
		}
		w.command(id, job.Retry)
		w.pass(5 * time.Minute)
		w.want(id, job.Completed)
	})
}

func TestAJobWhoseStateWasLostDoesNotAdoptTheSnapshotOfTheOneBefore(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		submit := func() {
			t.Helper()
			if _, _, err := w.node.Submit(t.Context(), job.Spec{VM: "web"}, "mine", "", ""); err != nil {
				t.Fatal(err)
			}
		}
		submit()
		w.pass(20 * time.Second)
		before := w.want("mine", job.Transfer).HeldSnapshot
		w.journal.lose()
		w.again(func(*actors.Deps) {})
		submit()
		w.pass(20 * time.Second)
		after := w.want("mine", job.Transfer).HeldSnapshot
		if after.Name != before.Name || after.Mark == before.Mark || after.Ref == before.Ref {
			t.Errorf("before %s %s %s, after %s %s %s", before.Name, before.Mark, before.Ref, after.Name, after.Mark,
				after.Ref)
		}
		if !w.vcenter.has(before.Ref) {
			t.Error("the name is held by a job, and the snapshot is gone")
		}
		w.pass(5 * time.Minute)
		w.want("mine", job.Completed)
		w.pass(time.Minute)
		if n := w.vcenter.count(); n > 0 {
			t.Errorf("%d snapshots are left", n)
		}
	})
}

func TestAJobOfAVersionWithoutMarksGetsOneAndKeepsItsSnapshot(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{Cutover: job.CutoverManual})
		w.pass(20 * time.Second)
		st := w.want(id, job.Transfer)
		w.stop()
		st.Mark, st.HeldSnapshot.Mark, st.HeldSnapshot.Name = "", "", "vmferry/"+string(id)+"/1"
		w.journal.replace(st)
		w.vcenter.snapshots[0].SnapshotRef = st.HeldSnapshot.SnapshotRef()
		w.start()
		w.pass(2 * time.Minute)
		st = w.want(id, job.Waiting)
		if st.Mark == "" || w.vcenter.count() != 0 {
			t.Errorf("mark %q, %d snapshots are left", st.Mark, w.vcenter.count())
		}
		w.command(id, job.Sync)
		w.pass(3 * time.Second)
		if h := w.journal.state(id).HeldSnapshot; h.Mark != st.Mark+".2" || strings.Contains(h.Name, "/") {
			t.Errorf("the next snapshot is %+v", h)
		}
	})
}

func TestAJobOfAVersionWithoutMarksThatIsRetriedGetsOne(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.copies.failDisk("disk-2000", 10, job.Errorf("write", job.Permission, "", "no longer allowed"))
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(time.Minute)
		st := w.want(id, job.Failed)
		w.stop()
		st.Mark = ""
		w.journal.replace(st)
		w.start()
		w.command(id, job.Retry)
		w.pass(20 * time.Second)
		if st := w.want(id, job.Transfer); st.Mark == "" || st.HeldSnapshot.Mark != st.Mark+".2" {
			t.Errorf("mark %q, snapshot %+v", st.Mark, st.HeldSnapshot)
		}
	})
}

func TestARetryOfOneDiskCopiesOnlyChangesOfTheOthers(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.copies.failDisk("disk-2000", 10, job.Errorf("write", job.Permission, "", "no longer allowed"))
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(4 * time.Minute)
		w.want(id, job.Failed)
		retry := job.CommandReceived{Verb: job.Retry, Disks: []job.DiskID{"disk-2001"}}
		if err := w.node.Command(t.Context(), id, retry); job.KindOf(err) != job.Invalid {
			t.Errorf("a disk that did not fail may go full: %v", err)
		}
		retry.Disks = []job.DiskID{"disk-2000"}
		if err := w.node.Command(t.Context(), id, retry); err != nil {
			t.Fatal(err)
		}
		w.pass(4 * time.Minute)
		st := w.want(id, job.Completed)
		if st.Disks[0].Mode != job.Full || st.Disks[1].Mode != job.Incremental || st.Disks[1].ToTransfer != 5*mib {
			t.Errorf("disks went %s and %s, the second with %d bytes", st.Disks[0].Mode, st.Disks[1].Mode,
				st.Disks[1].ToTransfer)
		}
		if st.Unverified || st.Partial != nil || st.FullOnly != nil {
			t.Errorf("fields of the retry are still set: %+v", st)
		}
	})
}

func TestARetryOfOneDiskIsRefusedIfAnotherCanNoLongerMoveOnlyItsChanges(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.copies.failDisk("disk-2000", 10, job.Errorf("write", job.Permission, "", "no longer allowed"))
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(4 * time.Minute)
		w.want(id, job.Failed)
		w.copies.refuseChangeIDs()
		retry := job.CommandReceived{Verb: job.Retry, Disks: []job.DiskID{"disk-2000"}}
		if err := w.node.Command(t.Context(), id, retry); err != nil {
			t.Fatal(err)
		}
		w.pass(4 * time.Minute)
		st := w.want(id, job.Failed)
		if st.Failure.Kind != job.Conflict ||
			!strings.Contains(st.Failure.Message, "disk-2001 would have to be copied") ||
			!strings.Contains(st.Failure.Next, "without --disk") {
			t.Errorf("failure %+v", st.Failure)
		}
		if n := len(w.copies.startsOf("disk-2001")); n != 1 {
			t.Errorf("disk-2001 was copied %d times", n)
		}
	})
}

func TestAnIncrementalJobIsRefusedIfItsChangeIDsAreNoLongerGood(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		first := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(4 * time.Minute)
		w.want(first, job.Completed)
		w.copies.refuseChangeIDs()
		id, _, err := w.node.Submit(t.Context(), job.Spec{VM: "web", Mode: job.Incremental}, "", "", "")
		if err != nil {
			t.Fatal(err)
		}
		w.pass(time.Minute)
		st := w.want(id, job.Failed)
		if st.Failure.Kind != job.Conflict || !strings.Contains(st.Failure.Message, "no longer good") {
			t.Errorf("failure %+v", st.Failure)
		}
		if set, err := w.journal.Set(t.Context(), "uuid-web"); err != nil || set == nil {
			t.Errorf("the set was dropped: %v", err)
		}
	})
}

func TestAFreshRetryCopiesEverything(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.copies.failDisk("disk-2000", 10, job.Errorf("write", job.Permission, "", "no longer allowed"))
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(4 * time.Minute)
		w.want(id, job.Failed)
		if err := w.node.Command(t.Context(), id, job.CommandReceived{Verb: job.Retry, Fresh: true}); err != nil {
			t.Fatal(err)
		}
		w.pass(4 * time.Minute)
		st := w.want(id, job.Completed)
		if st.Disks[0].Mode != job.Full || st.Disks[1].Mode != job.Full {
			t.Errorf("disks went %s and %s", st.Disks[0].Mode, st.Disks[1].Mode)
		}
	})
}

func TestACancelWithPurgeRemovesWhatTheJobMade(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.targets.make("/targets/web/disk-2001.raw") // was there before
		id := w.submit("web", job.Options{})
		w.pass(20 * time.Second)
		if err := w.node.Command(t.Context(), id, job.CommandReceived{Verb: job.Cancel, Purge: true}); err != nil {
			t.Fatal(err)
		}
		w.pass(30 * time.Second)
		w.want(id, job.PhaseCancelled)
		if w.targets.there("/targets/web/disk-2000.raw") || !w.targets.there("/targets/web/disk-2001.raw") {
			t.Error("the file that the job made is still there, or the other one is gone")
		}
		if n := w.vcenter.count(); n != 0 {
			t.Errorf("%d snapshots are left", n)
		}
	})
}

func TestALimitOfOneDiskAtATimeCanBeSetAndLifted(t *testing.T) {
	inWorld(t, 3, func(w *world) {
		id := w.submit("web", job.Options{Verify: job.VerifyNone, Disks: 1})
		w.pass(20 * time.Second)
		r := w.page.last()
		waiting := 0
		for _, d := range r.Disks {
			if strings.Contains(d.WaitingFor, "another disk of the job") {
				waiting++
			}
		}
		if waiting != 2 || len(r.Health) == 0 || r.Health[0] != report.Throttled {
			t.Errorf("%d disks wait, health %v", waiting, r.Health)
		}
		if err := w.node.Limit(t.Context(), id, job.Limited{Disks: new(int)}); err != nil {
			t.Fatal(err)
		}
		w.pass(2 * time.Second)
		for _, d := range w.page.last().Disks {
			if d.WaitingFor != "" {
				t.Errorf("%s still waits for %s", d.DiskID, d.WaitingFor)
			}
		}
		w.pass(4 * time.Minute)
		w.want(id, job.Completed)
		if err := w.node.Limit(t.Context(), id, job.Limited{Disks: new(int)}); job.KindOf(err) != job.Conflict {
			t.Errorf("a completed job is limited: %v", err)
		}
	})
}

func TestInvalidLimitsAreRefused(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{})
		for _, l := range []job.Limited{
			{}, {Bandwidth: new(int64(-1))}, {Bandwidth: new(int64(5))}, {Disks: new(-1)}, {Disks: new(1000)},
		} {
			if err := w.node.Limit(t.Context(), id, l); job.KindOf(err) != job.Invalid {
				t.Errorf("%+v: %v", l, err)
			}
		}
		before, _ := w.node.Limits()
		for _, l := range []job.Limits{
			{},
			{Jobs: -1},
			{Jobs: 1001},
			{Jobs: 1, Disks: -1},
			{Jobs: 1, HostBytes: 100},
			{Jobs: 1, Bandwidth: -5},
			{Jobs: 1, HostConnections: 1 << 30},
		} {
			if err := w.node.SetLimits(l); job.KindOf(err) != job.Invalid {
				t.Errorf("%+v: %v", l, err)
			}
		}
		if after, _ := w.node.Limits(); after != before {
			t.Errorf("limits are %+v, were %+v", after, before)
		}
	})
}

func TestARehearsedPanicFailsOneAttempt(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		if err := w.node.Rehearse(t.Context(), "job-unknown", "disk-2000"); job.KindOf(err) != job.NotFound {
			t.Errorf("of no job: %v", err)
		}
		w.pass(20 * time.Second)
		if err := w.node.Rehearse(t.Context(), id, "disk-1"); job.KindOf(err) != job.NotFound {
			t.Errorf("of no disk: %v", err)
		}
		if err := w.node.Rehearse(t.Context(), id, "disk-2000"); err != nil {
			t.Fatal(err)
		}
		w.pass(4 * time.Minute)
		if st := w.want(id, job.Completed); st.Disks[0].Restarts != 1 ||
			!strings.Contains(st.Disks[0].LastCause.Message, "rehearsed") {
			t.Errorf("restarts %d, cause %+v", st.Disks[0].Restarts, st.Disks[0].LastCause)
		}
	})
}
