package job_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
)

// In every state that events can lead to, the machine takes exactly the commands that Allowed lists. Two are no
// contrary example: a resume while nothing is paused changes nothing, and a retry can name disks that need none.
func TestAJobTakesExactlyTheVerbsThatItAllows(t *testing.T) {
	reached := map[job.Phase]bool{}
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Unix(1_800_000_000, 0).UTC()
		var st job.State
		st, _, err := st.Apply(job.Submitted{ID: "job-1", Mark: "m", Spec: anySpec(rt)}, now)
		if err != nil {
			rt.Fatal(err)
		}
		for range rapid.IntRange(0, 40).Draw(rt, "events") {
			now = now.Add(time.Minute)
			checkVerbs(rt, st, now)
			reached[st.Phase] = true
			if next, _, err := st.Apply(anyEvent(rt, st), now); err == nil {
				st = next
			}
		}
	})
	if testing.Short() {
		return // a few runs do not reach every phase; make it runs more
	}
	for _, p := range append(job.Way(), job.Failed, job.PhaseCancelled) {
		if !reached[p] {
			t.Errorf("no run has reached %s", p)
		}
	}
}

func checkVerbs(rt *rapid.T, st job.State, now time.Time) {
	allowed := st.Allowed()
	for _, v := range []job.Verb{
		job.Pause, job.Resume, job.Cancel, job.Retry, job.Sync, job.CutoverNow, job.Delete, "dance",
	} {
		next, actions, err := st.Apply(job.CommandReceived{Verb: v}, now)
		switch {
		case err == nil && slices.Contains(allowed, v):
		case err == nil && v == job.Resume && !st.Paused:
			next.Seq = st.Seq
			if diff := cmp.Diff(st, next); diff != "" || len(actions) > 0 {
				rt.Fatalf("a resume of a job that is not paused does something: %v %s", actions, diff)
			}
		case err == nil:
			rt.Fatalf("%s (%s) takes %s and allows %v", st.Phase, st.Status(), v, allowed)
		case slices.Contains(allowed, v):
			rt.Fatalf("%s (%s) allows %v and refuses %s: %v", st.Phase, st.Status(), allowed, v, err)
		case job.KindOf(err) != job.Conflict || job.NextOf(err) != "Allowed now: "+words(allowed):
			rt.Fatalf("the refusal of %s does not name %v: %v, next %s", v, allowed, err, job.NextOf(err))
		}
	}
}

func words(verbs []job.Verb) string {
	out := make([]string, len(verbs))
	for i, v := range verbs {
		out[i] = string(v)
	}
	return strings.Join(out, ", ")
}

func anySpec(rt *rapid.T) job.Spec {
	spec := job.Spec{VM: "web", Mode: job.Full, Options: job.Options{
		Cutover: rapid.SampledFrom([]job.Cutover{job.CutoverAuto, job.CutoverManual}).Draw(rt, "cutover"),
		Verify:  rapid.SampledFrom([]job.VerifyMode{job.VerifyNone, job.VerifyFull}).Draw(rt, "verify"),
	}}
	spec, err := spec.Normal()
	if err != nil {
		rt.Fatal(err)
	}
	return spec
}

// anyEvent is most often the answer that the phase waits for, else a failure, a command or a restart.
func anyEvent(rt *rapid.T, st job.State) job.Event {
	switch rapid.IntRange(0, 11).Draw(rt, "event") {
	case 0:
		return job.CommandReceived{Verb: rapid.SampledFrom([]job.Verb{
			job.Pause, job.Resume, job.Cancel, job.Retry, job.Sync, job.CutoverNow,
		}).Draw(rt, "verb")}
	case 1:
		return job.Restarted{Mark: "m2"}
	case 2:
		return job.StepFailed{Phase: st.Phase, Kind: rapid.SampledFrom([]job.Kind{job.Unavailable, job.Permission}).
			Draw(rt, "kind"), Message: "no", What: job.PeerVCenter}
	case 3:
		return job.StepDue{Phase: st.Phase, Attempt: st.Step.Attempt}
	default:
		return answerTo(rt, st)
	}
}

// answerTo is the event that a phase waits for.
func answerTo(rt *rapid.T, st job.State) job.Event {
	disks := []job.Disk{{ID: "disk-2000", Key: 2000, Capacity: 1 << 20, BackingID: "b0", ChangeID: fmt.Sprint(st.Seq)}}
	plans := []job.DiskPlan{{
		Disk: disks[0], Mode: job.Full, ToTransfer: 1 << 20, TargetIdentity: "new", Target: "/srv/t", Volume: "v",
	}}
	switch st.Phase {
	case job.Queued:
		return job.Admitted{}
	case job.Preflight:
		return job.Inspected{
			VM:      job.VM{Ref: "vm-1", UUID: "u", Name: "web", Path: "/DC0/vm/web", Disks: disks},
			Targets: []job.Target{{Disk: "disk-2000", URI: "/srv/t"}},
		}
	case job.EnablingCBT:
		return job.CBTReady{}
	case job.Snapshot:
		return job.SnapshotTaken{Snapshot: job.VMSnapshot{Ref: "snapshot-1", Disks: disks}}
	case job.Connect:
		if rapid.Bool().Draw(rt, "prepared") {
			return job.TargetsPrepared{Disks: plans}
		}
		return job.Planned{Disks: plans}
	case job.Transfer, job.Verify:
		return diskAnswer(rt, st)
	case job.Commit:
		if st.Committed() {
			return job.SnapshotGone{}
		}
		return job.SetCommitted{}
	case job.Waiting:
		return job.CommandReceived{Verb: rapid.SampledFrom([]job.Verb{job.Sync, job.CutoverNow}).Draw(rt, "go on")}
	default:
		if st.HeldSnapshot.Name == "" {
			return job.TargetsPurged{}
		}
		return job.SnapshotGone{}
	}
}

func diskAnswer(rt *rapid.T, st job.State) job.Event {
	d := st.Disks[0]
	all := job.Counters{ToTransfer: 1 << 20, Transferred: 1 << 20, Durable: 1 << 20, Verified: 1 << 20}
	switch {
	case rapid.IntRange(0, 3).Draw(rt, "fails") == 0:
		return job.AttemptFailed{
			Disk: d.Disk.ID, Attempt: d.Attempt, Message: "no",
			Kind: rapid.SampledFrom([]job.Kind{job.IO, job.Cancelled, job.Corrupt}).Draw(rt, "kind"),
		}
	case d.Phase == job.DiskBackoff:
		return job.DiskDue{Disk: d.Disk.ID, Attempt: d.Attempt}
	case st.Phase == job.Verify:
		return job.DiskVerified{Disk: d.Disk.ID, Attempt: d.Attempt, Counters: all}
	default:
		return job.DiskMoved{Disk: d.Disk.ID, Attempt: d.Attempt, Counters: all}
	}
}
