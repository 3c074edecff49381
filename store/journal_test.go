package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

func TestAJobComesBackAsItWasSaved(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	j, err := store.OpenJournal(ctx, dir)
	must(t, err)
	first, second := state("job-b", "/DC0/vm/web"), state("job-a", "/DC0/vm/db")
	second.CreatedAt = noon().Add(time.Millisecond)
	must(t, j.Create(ctx, second, nil))
	must(t, j.Create(ctx, first, []byte(`{"submitted":true}`)))
	first = then(first, job.Preflight)
	first.VM = job.VM{UUID: "U-1", Disks: []job.Disk{{ID: "disk-2000", Capacity: 1 << 30}}}
	first.Notes = []string{"disk-2000 goes full"}
	must(t, j.Save(ctx, first, []byte(`{"begun":true}`)))
	must(t, j.Close())

	j = openJournal(t, dir)
	got, err := j.Jobs(ctx)
	must(t, err)
	if diff := cmp.Diff([]job.State{first, second}, got); diff != "" {
		t.Errorf("jobs, oldest first (-want +got):\n%s", diff)
	}
	events, err := j.Events(ctx, "job-b")
	must(t, err)
	if len(events) != 2 || events[0].Seq != 0 || string(events[0].JSON) != `{"submitted":true}` || events[1].Seq != 1 ||
		string(events[1].JSON) != `{"begun":true}` || time.Since(events[1].At) > time.Hour {
		t.Errorf("events are %+v", events)
	}
	_, err = j.Events(ctx, "unknown")
	wantKind(t, err, job.NotFound)
}

func TestASecondJobForAVMIsRefused(t *testing.T) {
	withUUID := func(st job.State, uuid string) job.State {
		st.VM.UUID = uuid
		return st
	}
	known := func(st job.State) job.State {
		st.VM = job.VM{UUID: "AB-2", Path: "/DC0/vm/web", Ref: "vm-29", Name: "web"}
		return st
	}
	tests := []struct {
		name   string
		stored job.State
		other  job.State
		want   job.Kind
	}{
		{"the same id", state("a", "/web"), state("a", "/db"), job.Conflict},
		{"the same VM", state("a", "/web"), state("b", "/web"), job.Conflict},
		{"another VM", state("a", "/web"), state("b", "/db"), ""},
		{"its path", known(state("a", "web")), state("b", "/DC0/vm/web"), job.Conflict},
		{"its reference", known(state("a", "web")), state("b", "vm-29"), job.Conflict},
		{"its name", known(state("a", "vm-29")), state("b", "web"), job.Conflict},
		{"another path", known(state("a", "web")), state("b", "/DC0/vm/db"), ""},
		{
			"the same UUID in other letters", withUUID(state("a", "/web"), "AB-1"), withUUID(state("b", "web"), "ab-1"),
			job.Conflict,
		},
		{"named by the UUID of a known VM", withUUID(state("a", "/web"), "ab-1"), state("b", "AB-1"), job.Conflict},
		{"known VM that was named by its UUID", state("a", "AB-1"), withUUID(state("b", "/web"), "ab-1"), job.Conflict},
		{"the VM of a job that has ended", then(state("a", "/web"), job.Failed), state("b", "/web"), ""},
		{"ended itself", state("a", "/web"), then(state("b", "/web"), job.Failed), ""},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			j := openJournal(t, t.TempDir())
			must(t, j.Create(t.Context(), tc.stored, nil))
			err := j.Create(t.Context(), tc.other, nil)
			wantKind(t, err, tc.want)
			if err != nil && !strings.Contains(err.Error(), "job a") {
				t.Errorf("error %q does not name the other job", err)
			}
			jobs, _ := j.Jobs(t.Context())
			if want := map[bool]int{true: 2, false: 1}[err == nil]; len(jobs) != want {
				t.Errorf("%d jobs are stored, want %d", len(jobs), want)
			}
		})
	}
}

func TestAUUIDThatBecomesKnownIsRefusedIfAnotherJobHasIt(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	a, b := state("a", "/DC0/vm/web"), state("b", "web")
	must(t, j.Create(ctx, a, nil))
	must(t, j.Create(ctx, b, nil))
	a = then(a, job.Preflight)
	a.VM.UUID = "U-1"
	must(t, j.Save(ctx, a, []byte("{}")))
	found := then(b, job.Preflight)
	found.VM.UUID = "u-1"
	err := j.Save(ctx, found, []byte("{}"))
	wantKind(t, err, job.Conflict)
	if !strings.Contains(err.Error(), "job a") {
		t.Errorf("error %q does not name the other job", err)
	}
	if events, _ := j.Events(ctx, "b"); len(events) != 0 {
		t.Errorf("a refused save left %d events", len(events))
	}
	failed := then(b, job.Failed)
	failed.VM.UUID = "u-1"
	must(t, j.Save(ctx, failed, []byte("{}")))
	wantKind(t, j.Save(ctx, then(failed, job.Queued), []byte("{}")), job.Conflict)
	must(t, j.Save(ctx, then(a, job.Completed), []byte("{}")))
	must(t, j.Save(ctx, then(failed, job.Queued), []byte("{}")))
}

func TestSaveTakesOnlyWhatFollows(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	zero := state("a", "/web")
	one := then(zero, job.Preflight)
	two := then(one, job.EnablingCBT)
	must(t, j.Create(ctx, zero, nil))
	wantKind(t, j.Save(ctx, zero, []byte(`"none"`)), job.Conflict)
	wantKind(t, j.Save(ctx, two, []byte(`"two"`)), job.Conflict)
	must(t, j.Save(ctx, one, []byte(`"one"`)))
	must(t, j.Save(ctx, one, []byte(`"one"`)))
	wantKind(t, j.Save(ctx, one, []byte(`"other"`)), job.Conflict)
	must(t, j.Save(ctx, two, []byte(`"two"`)))
	wantKind(t, j.Save(ctx, one, []byte(`"one"`)), job.Conflict)
	wantKind(t, j.Save(ctx, then(two, job.Snapshot), []byte(`{`)), job.Invalid)
	wantKind(t, j.Save(ctx, state("b", "/db"), []byte(`{}`)), job.NotFound)
	events, err := j.Events(ctx, "a")
	must(t, err)
	var got []string
	for _, e := range events {
		got = append(got, fmt.Sprintf("%d %s", e.Seq, e.JSON))
	}
	if diff := cmp.Diff([]string{`1 "one"`, `2 "two"`}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	jobs, err := j.Jobs(ctx)
	must(t, err)
	if diff := cmp.Diff([]job.State{two}, jobs); diff != "" {
		t.Errorf("jobs (-want +got):\n%s", diff)
	}
}

func TestOneOfManyConcurrentJobsGetsTheVM(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	var wait sync.WaitGroup
	errs := make([]error, 16)
	for i := range errs {
		wait.Go(func() { errs[i] = j.Create(ctx, state(job.ID(fmt.Sprint("job-", i)), "/web"), nil) })
	}
	wait.Wait()
	accepted := 0
	for _, err := range errs {
		if err == nil {
			accepted++
			continue
		}
		wantKind(t, err, job.Conflict)
	}
	if accepted != 1 {
		t.Errorf("%d jobs were accepted, want 1", accepted)
	}
}

func TestOnlyEndedJobsAreDeleted(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	st := state("a", "/web")
	must(t, j.Create(ctx, st, nil))
	must(t, j.SaveReports(ctx, []report.Report{reportOf("a", 1, 1)}))
	wantKind(t, j.Delete(ctx, "a"), job.Conflict)
	wantKind(t, j.Delete(ctx, "b"), job.NotFound)
	must(t, j.Save(ctx, then(st, job.Completed), []byte("{}")))
	must(t, j.Delete(ctx, "a"))
	wantKind(t, j.Delete(ctx, "a"), job.NotFound)
	must(t, j.SaveReports(ctx, []report.Report{reportOf("a", 1, 2)})) // it was on the way
	if reports, _ := j.Reports(ctx); len(reports) != 0 {
		t.Errorf("a deleted job has %d reports", len(reports))
	}
	must(t, j.Create(ctx, st, nil))
	if events, _ := j.Events(ctx, "a"); len(events) != 0 {
		t.Errorf("a new job has %d events of a deleted one", len(events))
	}

	other := reportOf("other-tool", 1, 3)
	other.Origin = report.External
	must(t, j.SaveReports(ctx, []report.Report{other}))
	wantKind(t, j.Delete(ctx, "other-tool"), job.Conflict)
	other = ended(other)
	other.Seq++
	must(t, j.SaveReports(ctx, []report.Report{other}))
	must(t, j.Delete(ctx, "other-tool"))
	wantKind(t, j.Delete(ctx, "other-tool"), job.NotFound)
}

func TestReportsKeepTheNewest(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	must(t, j.Create(ctx, state("a", "/web"), nil))
	must(t, j.Create(ctx, state("b", "/db"), nil))
	must(t, j.SaveReports(ctx, nil))
	must(t, j.SaveReports(ctx, []report.Report{reportOf("a", 2, 5), reportOf("b", 2, 6)}))
	must(t, j.SaveReports(ctx, []report.Report{reportOf("a", 1, 9), reportOf("b", 2, 5), reportOf("b", 3, 1)}))
	got, err := j.Reports(ctx)
	must(t, err)
	if diff := cmp.Diff([]report.Report{reportOf("a", 2, 5), reportOf("b", 3, 1)}, got); diff != "" {
		t.Errorf("reports (-want +got):\n%s", diff)
	}
}

func TestAJobWithoutASavedReportIsUnreported(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	for _, id := range []job.ID{"a", "b"} {
		must(t, j.Create(ctx, state(id, "/"+string(id)), nil))
	}
	must(t, j.SaveReports(ctx, []report.Report{reportOf("a", 1, 1)}))
	got, err := j.Unreported(ctx)
	must(t, err)
	if len(got) != 1 || got[0].ID != "b" {
		t.Errorf("unreported are %v", got)
	}
}

func TestCheckpointSets(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	set := job.CheckpointSet{
		VMUUID: "AB-1", Job: "a", Round: 1, Snapshot: "snapshot-1", Committed: noon(),
		Disks: []job.DiskCheckpoint{{Disk: "disk-2000", ChangeID: "52/1"}, {Disk: "disk-2001", ChangeID: "52/2"}},
	}
	want := func(generation int64, round int) {
		t.Helper()
		got, err := j.Set(ctx, "ab-1")
		must(t, err)
		if got == nil || got.Generation != generation || got.Round != round || len(got.Disks) != 2 {
			t.Fatalf("set is %+v, want generation %d of round %d", got, generation, round)
		}
	}
	none := func() {
		t.Helper()
		if got, err := j.Set(ctx, "AB-1"); got != nil || err != nil {
			t.Fatalf("set is %+v, %v; want none", got, err)
		}
	}
	none()
	must(t, j.DropSet(ctx, "AB-1"))
	must(t, j.Commit(ctx, set))
	want(1, 1)
	set.Committed = noon().Add(time.Second)
	must(t, j.Commit(ctx, set)) // the same round again
	want(1, 1)
	set.Round, set.Snapshot = 2, "snapshot-2"
	must(t, j.Commit(ctx, set))
	want(2, 2)
	set.Round = 1
	wantKind(t, j.Commit(ctx, set), job.Conflict)
	want(2, 2)
	must(t, j.DropSet(ctx, "AB-1"))
	none()
	set.Job = "b"
	must(t, j.Commit(ctx, set)) // generations count up over jobs
	want(3, 1)
	must(t, j.DropSet(ctx, "ab-1"))
	must(t, j.Commit(ctx, set)) // not a repeat: the set was dropped
	want(4, 1)
	set.Snapshot = "snapshot-9"
	must(t, j.Commit(ctx, set)) // the round was repeated
	want(5, 1)
	set.Round, set.Snapshot = 7, "snapshot-10"
	must(t, j.Commit(ctx, set))
	want(6, 7)
	set.Round, set.Mark = 1, "another job of the same id"
	must(t, j.Commit(ctx, set))
	want(7, 1)
	must(t, j.Commit(ctx, set))
	want(7, 1)
	set.Mark = "one more" // with the same round and snapshot
	must(t, j.Commit(ctx, set))
	want(8, 1)
	set.Round = 0
	wantKind(t, j.Commit(ctx, set), job.Conflict)
	wantKind(t, j.Commit(ctx, job.CheckpointSet{VMUUID: "AB-1"}), job.Invalid)
	wantKind(t, j.Commit(ctx, job.CheckpointSet{Disks: set.Disks}), job.Invalid)
}

func TestARepeatedRequestFindsItsJob(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	key := store.Key{Name: "k1", BodyHash: "h1"}
	create := func(st job.State, key store.Key, want job.ID, wantRepeated bool) {
		t.Helper()
		id, repeated, err := j.CreateOnce(ctx, st, nil, key)
		must(t, err)
		if id != want || repeated != wantRepeated {
			t.Fatalf("got job %s, repeated %t; want %s, %t", id, repeated, want, wantRepeated)
		}
	}
	create(state("a", "/web"), key, "a", false)
	create(state("b", "/web"), key, "a", true)
	_, _, err := j.CreateOnce(ctx, state("b", "/db"), nil, store.Key{Name: "k1", BodyHash: "h2"})
	wantKind(t, err, job.Invalid)
	_, _, err = j.CreateOnce(ctx, state("b", "/web"), nil, store.Key{Name: "k2", BodyHash: "h1"})
	wantKind(t, err, job.Conflict)
	if _, found, err := j.Lookup(ctx, store.Key{Name: "k2", BodyHash: "h1"}, noon()); found || err != nil {
		t.Errorf("the key of a refused request is found (%t, %v)", found, err)
	}

	must(t, j.Save(ctx, then(state("a", "/web"), job.Completed), []byte("{}")))
	must(t, j.Delete(ctx, "a"))
	create(state("c", "/web"), key, "a", true) // a late repeat does not start the job again
	if id, found, err := j.Lookup(ctx, key, noon().Add(24*time.Hour-1)); id != "a" || !found || err != nil {
		t.Errorf("just under 24 h later: %s, %t, %v", id, found, err)
	}
	if _, found, err := j.Lookup(ctx, key, noon().Add(24*time.Hour)); found || err != nil {
		t.Errorf("24 h later: %t, %v", found, err)
	}
	late := state("d", "/web")
	late.CreatedAt = noon().Add(25 * time.Hour)
	create(late, key, "d", false)
}

func TestEpochsGrowEvenIfTheClockGoesBack(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	var last int64
	for _, now := range []time.Time{noon(), noon(), noon().Add(-time.Hour), noon().Add(time.Hour), time.UnixMilli(1)} {
		j, err := store.OpenJournal(ctx, dir)
		must(t, err)
		epoch, err := j.NextEpoch(ctx, now)
		must(t, err)
		must(t, j.Close())
		if epoch <= last || epoch < now.UnixMilli() {
			t.Errorf("epoch is %d at %d, after %d", epoch, now.UnixMilli(), last)
		}
		last = epoch
	}
}

func TestAnEndedContextIsNoFaultOfTheJournal(t *testing.T) {
	j := openJournal(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantKind(t, j.Create(ctx, state("a", "/web"), nil), job.Cancelled)
	_, err := j.Jobs(ctx)
	wantKind(t, err, job.Cancelled)
	must(t, j.Create(t.Context(), state("a", "/web"), nil))
}

func TestForgottenReportsOfOtherToolsDoNotComeBackAndOwnJobsKeepTheirs(t *testing.T) {
	ctx := t.Context()
	j := openJournal(t, t.TempDir())
	must(t, j.Create(ctx, state("own", "/web"), nil))
	other := reportOf("other", 1, 2)
	other.Origin = report.External
	must(t, j.SaveReports(ctx, []report.Report{reportOf("own", 1, 1), other}))
	must(t, j.ForgetReports(ctx, []job.ID{"own", "other", "unknown"}))
	must(t, j.ForgetReports(ctx, nil))
	got, err := j.Reports(ctx)
	must(t, err)
	if len(got) != 1 || got[0].JobID != "own" {
		t.Errorf("%d reports are left", len(got))
	}
}
