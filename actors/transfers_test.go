package actors_test

import (
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

func TestAPanicOfATransferFailsItsAttemptOnly(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.copies.panicWhenSeen("disk-2000", 25)
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(3 * time.Minute)
		st := w.want(id, job.Completed)
		if c := st.Disks[0].LastCause; c == nil || c.Kind != job.Internal ||
			c.Message != "the transfer crashed: the numbers are out of reach" || c.Next == "" {
			t.Errorf("cause %+v", c)
		}
		if st.Disks[0].Restarts != 1 || st.Disks[1].Restarts != 0 {
			t.Errorf("restarts %d and %d", st.Disks[0].Restarts, st.Disks[1].Restarts)
		}
	})
}

// TestAfterAPanicOfADiskTheNextCopyWaitsForTheEndOfItsTransfer has copies that end later than the next attempt begins.
// inWorld counts the writers of each target.
func TestAfterAPanicOfADiskTheNextCopyWaitsForTheEndOfItsTransfer(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.copies.slowStop = 20 * time.Second
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		if err := w.node.Rehearse(t.Context(), id, "disk-2000"); err != nil {
			t.Fatal(err)
		}
		w.pass(10 * time.Second)
		if st := w.journal.state(id); st.Disks[0].Attempt != 1 || len(w.copies.startsOf("disk-2000")) != 1 {
			t.Errorf("attempt %d, begun %d times while the first one still ends", st.Disks[0].Attempt,
				len(w.copies.startsOf("disk-2000")))
		}
		if err := w.node.Rehearse(t.Context(), id, "disk-2000"); job.KindOf(err) != job.Conflict {
			t.Errorf("a Disk that does not run was rehearsed: %v", err)
		}
		w.pass(4 * time.Minute)
		st := w.want(id, job.Completed)
		if c := st.Disks[0].LastCause; c == nil || !strings.Contains(c.Message, "disk actor crashed: rehearsed") {
			t.Errorf("cause %+v", c)
		}
		if n := len(w.copies.startsOf("disk-2000")); n != 2 {
			t.Errorf("%d copies were begun", n)
		}
	})
}

func TestAPauseHoldsADiskWhoseTransferStillEnds(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		w.copies.slowStop = 20 * time.Second
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		if err := w.node.Rehearse(t.Context(), id, "disk-2000"); err != nil {
			t.Fatal(err)
		}
		w.pass(5 * time.Second)
		w.command(id, job.Pause)
		w.pass(time.Minute)
		if n := len(w.copies.startsOf("disk-2000")); n != 1 {
			t.Errorf("%d copies were begun during the pause", n)
		}
		w.command(id, job.Resume)
		w.pass(3 * time.Minute)
		w.want(id, job.Completed)
	})
}

func TestTargetsAreOpenFromTheirPreparationToTheCommit(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		id := w.submit("web", job.Options{Cutover: job.CutoverManual})
		w.pass(30 * time.Second)
		w.want(id, job.Transfer)
		if n := w.targets.openCount(); n != 2 {
			t.Errorf("%d targets are open during the copy", n)
		}
		w.command(id, job.Pause)
		w.pass(10 * time.Second)
		if n := w.targets.openCount(); n != 2 {
			t.Errorf("%d targets are open during a pause", n)
		}
		w.command(id, job.Resume)
		w.pass(3 * time.Minute)
		w.want(id, job.Waiting)
		if n := w.targets.openCount(); n != 0 {
			t.Errorf("%d targets are open between two rounds", n)
		}
		w.command(id, job.Sync)
		w.pass(6 * time.Second)
		w.command(id, job.Cancel)
		w.pass(time.Minute)
		w.want(id, job.PhaseCancelled)
		if n := w.targets.openCount(); n != 0 {
			t.Errorf("%d targets are open after a cancel", n)
		}
	})
}

func TestTargetsOfAFailedJobAreClosed(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		w.copies.failDisk("disk-2000", 10, job.Errorf("write", job.Permission, "", "no longer allowed"))
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(4 * time.Minute)
		w.want(id, job.Failed)
		if n := w.targets.openCount(); n != 0 {
			t.Errorf("%d targets are open", n)
		}
	})
}

func TestARoundIsNotCommittedOverAReplacedTarget(t *testing.T) {
	inWorld(t, 2, func(w *world) {
		id := w.submit("web", job.Options{Verify: job.VerifyNone})
		w.pass(30 * time.Second)
		w.targets.replace("/targets/web_uuid-web/disk-2001.raw")
		w.pass(4 * time.Minute)
		st := w.want(id, job.Failed)
		if st.Failure.Kind != job.Conflict || !strings.Contains(st.Failure.Message, "disk-2001") {
			t.Errorf("failure %+v", st.Failure)
		}
		if set := w.journal.sets["uuid-web"]; set != nil {
			t.Errorf("the set %+v was committed", set)
		}
	})
}

func TestAShortFailureOfATargetServerKeepsTheSet(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{Cutover: job.CutoverManual, Verify: job.VerifyNone})
		w.pass(3 * time.Minute)
		w.want(id, job.Waiting)
		w.targets.failOnce(unavailable("the target's server restarts"))
		w.command(id, job.CutoverNow)
		w.pass(3 * time.Minute)
		st := w.want(id, job.Completed)
		if st.Rounds[1].Mode != job.Incremental || st.Disks[0].ToTransfer != 5*mib {
			t.Errorf("the second round went %s, %d bytes", st.Rounds[1].Mode, st.Disks[0].ToTransfer)
		}
	})
}

func TestAChangeIDThatIsNoLongerGoodTurnsTheRoundIntoAFullOne(t *testing.T) {
	inWorld(t, 1, func(w *world) {
		id := w.submit("web", job.Options{Cutover: job.CutoverManual, Verify: job.VerifyNone})
		w.pass(3 * time.Minute)
		w.want(id, job.Waiting)
		w.copies.refuseChangeIDs()
		w.command(id, job.CutoverNow)
		w.pass(3 * time.Minute)
		st := w.want(id, job.Completed)
		if st.Rounds[1].Mode != job.Full || !strings.Contains(strings.Join(st.Notes, "\n"), "no longer good") {
			t.Errorf("the second round went %s; notes %q", st.Rounds[1].Mode, st.Notes)
		}
	})
}
