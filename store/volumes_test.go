package store_test

import (
	"database/sql"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

func volume(id string, claimed int, by job.ID) job.VolumeRecord {
	return job.VolumeRecord{
		ID: id, Target: "/targets/" + id, Identity: "inode=" + id, Stamp: "s" + id, Job: by, MadeBy: by, Generation: 3,
		Writing: true, Size: 1 << 30, ClaimedAt: noon().Add(time.Duration(claimed) * time.Second),
		AdoptedAt: noon().Add(time.Hour), ReleasedAt: noon().Add(2 * time.Hour),
		Owner: job.VolumeOwner{VCenter: "VC-1", VM: "U-1", Name: "web", Disk: "disk-2000"},
	}
}

func TestVolumesComeBackAsTheyWereSaved(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	j, err := store.OpenJournal(ctx, dir)
	must(t, err)
	must(t, j.Create(ctx, state("a", "/web"), nil))
	must(t, j.Create(ctx, state("b", "/db"), nil))
	must(t, j.Save(ctx, then(state("b", "/db"), job.Failed), []byte("{}")))
	one, two, three, four := volume("1", 9, "a"), volume("2", 5, "b"), volume("3", 5, "unknown"), volume("4", 1, "a")
	must(t, j.ChangeVolumes(ctx, []job.VolumeRecord{one, two, three, four}, []string{"none"}))
	one.Stamp, one.Writing, one.JobActive = "later", false, true
	must(t, j.ChangeVolumes(ctx, []job.VolumeRecord{one}, []string{"4"}))
	must(t, j.ChangeVolumes(ctx, nil, []string{"4"}))
	must(t, j.ChangeVolumes(ctx, nil, nil))
	wantKind(t, j.ChangeVolumes(ctx, []job.VolumeRecord{four}, []string{"4"}), job.Invalid)
	wantKind(t, j.ChangeVolumes(ctx, []job.VolumeRecord{four, {Target: "/x"}}, []string{"1"}), job.Invalid)
	must(t, j.Close())

	j = openJournal(t, dir)
	got, err := j.Volumes(ctx)
	must(t, err)
	if diff := cmp.Diff([]job.VolumeRecord{two, three, one}, got); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
	got, err = j.VolumesOf(ctx, "a")
	must(t, err)
	if diff := cmp.Diff([]job.VolumeRecord{one}, got); diff != "" {
		t.Errorf("volumes of job a (-want +got):\n%s", diff)
	}
	got, err = j.VolumesOf(ctx, "none")
	if len(got) != 0 || err != nil {
		t.Errorf("volumes of no job: %v, %v", got, err)
	}
}

func TestAVolumeDoesNotNameADeletedJob(t *testing.T) {
	ctx, j := t.Context(), openJournal(t, t.TempDir())
	must(t, j.Create(ctx, state("a", "/web"), nil))
	must(t, j.Save(ctx, then(state("a", "/web"), job.Completed), []byte("{}")))
	mine, made, other := volume("1", 1, "a"), volume("2", 2, "b"), volume("3", 3, "b")
	made.MadeBy = "a"
	must(t, j.ChangeVolumes(ctx, []job.VolumeRecord{mine, made, other}, nil))
	must(t, j.Delete(ctx, "a"))
	must(t, j.Create(ctx, state("a", "/db"), nil)) // another job
	mine.Job, mine.MadeBy, made.MadeBy, mine.Made, made.Made = "", "", "", true, true
	got, err := j.Volumes(ctx)
	must(t, err)
	if diff := cmp.Diff([]job.VolumeRecord{mine, made, other}, got); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
}

// old is a job as an earlier version left it.
func old(id job.ID, vm string, phase job.Phase, targets ...string) job.State {
	st := state(id, vm)
	st.Phase, st.VM = phase, job.VM{UUID: vm + "-UUID", Name: vm}
	for i, target := range targets {
		st.Disks = append(st.Disks, job.DiskState{
			Disk: job.Disk{ID: job.NewDiskID(int32(2000 + i)), Capacity: 64 << 20}, Target: target,
			TargetIdentity: "id of " + target,
		})
	}
	return st
}

// began says that the job has written.
func began(st job.State) job.State {
	st.Phases = append(st.Phases, job.PhaseRun{Phase: job.Transfer, Round: 1})
	return st
}

func oldSet(by job.ID, vm string, hour int, targets ...string) job.CheckpointSet {
	committed := noon().Add(time.Duration(hour) * time.Hour)
	set := job.CheckpointSet{VMUUID: vm + "-UUID", Job: by, Round: 1, Committed: committed}
	for i, target := range targets {
		set.Disks = append(set.Disks, job.DiskCheckpoint{
			Disk: job.NewDiskID(int32(2000 + i)), Capacity: 64 << 20, Target: target, TargetIdentity: "id of " + target,
			TargetStamp: "stamp of " + target,
		})
	}
	return set
}

// oldJournal makes a state directory of the version before the ledger. Jobs are as old as their place in the list.
func oldJournal(t *testing.T, jobs []job.State, sets, dropped []job.CheckpointSet) string {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "journal.db")
	unpack(t, "testdata/journals/2-prepared.db.gz", path)
	db := plain(t, path)
	for _, table := range []string{"jobs", "events", "sets", "reports"} {
		run(t, db, "DELETE FROM "+table)
	}
	for i, st := range jobs {
		text, err := json.Marshal(st)
		must(t, err)
		run(t, db, "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)", st.ID, st.Spec.VM, "", !st.Phase.Terminal(), st.Seq,
			st.CreatedAt.Add(time.Duration(i)*time.Minute).UnixNano(), string(text))
	}
	for i, set := range append(sets, dropped...) {
		text, err := json.Marshal(set)
		must(t, err)
		run(t, db, "INSERT INTO sets VALUES (?, 1, ?, ?)", strings.ToLower(set.VMUUID), i >= len(sets), string(text))
	}
	must(t, db.Close())
	return dir
}

// plain opens the database without the journal.
func plain(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=synchronous(OFF)")
	must(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func run(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	_, err := db.ExecContext(t.Context(), query, args...)
	must(t, err)
}

func TestTargetsOfEarlierVersionsGetRows(t *testing.T) {
	t.Parallel()
	made := func(st job.State, targets ...string) job.State {
		st.Made = targets
		return st
	}
	purged := func(st job.State) job.State {
		st.Purge = true
		return st
	}
	noIdentity := func(st job.State) job.State {
		st.Disks[0].TargetIdentity = ""
		return st
	}
	named := func(vm, name, target string, r job.VolumeRecord) job.VolumeRecord {
		r.Target, r.Size = target, 64<<20
		r.Owner.VM, r.Owner.Name = vm+"-uuid", name
		if r.Owner.Disk == "" {
			r.Owner.Disk = "disk-2000"
		}
		return r
	}
	row := func(vm, target string, r job.VolumeRecord) job.VolumeRecord {
		r.Identity = "id of " + target
		return named(vm, vm, target, r)
	}
	second := job.VolumeOwner{Disk: "disk-2001"}
	tests := []struct {
		name          string
		jobs          []job.State
		sets, dropped []job.CheckpointSet
		want          []job.VolumeRecord
	}{
		{name: "nothing"},
		{
			name: "a set", jobs: []job.State{made(began(old("j", "web", job.Completed, "/a", "/b")), "/b")},
			sets: []job.CheckpointSet{oldSet("j", "web", 1, "/a", "/b")},
			want: []job.VolumeRecord{
				row("web", "/a", job.VolumeRecord{Stamp: "stamp of /a", Job: "j", Generation: 1}),
				row("web", "/b", job.VolumeRecord{
					Stamp: "stamp of /b", Job: "j", Generation: 1, MadeBy: "j", Owner: second,
				}),
			},
		},
		{
			name: "a set of a job that was deleted", sets: []job.CheckpointSet{oldSet("j", "web", 1, "/a")},
			want: []job.VolumeRecord{named("web", "web-UUID", "/a",
				job.VolumeRecord{Identity: "id of /a", Stamp: "stamp of /a", Job: "j", Generation: 1})},
		},
		{
			name: "a job that waits between rounds",
			jobs: []job.State{made(began(old("j", "web", job.Waiting, "/a")), "/a")},
			sets: []job.CheckpointSet{oldSet("j", "web", 1, "/a")},
			want: []job.VolumeRecord{row("web", "/a", job.VolumeRecord{
				Stamp: "stamp of /a", Job: "j", Generation: 1, MadeBy: "j", JobActive: true,
			})},
		},
		{
			name: "a job that writes over the set of an earlier one",
			jobs: []job.State{
				made(began(old("j", "web", job.Completed, "/a")), "/a"), began(old("k", "web", job.Verify, "/a")),
			},
			sets: []job.CheckpointSet{oldSet("j", "web", 1, "/a")},
			want: []job.VolumeRecord{row("web", "/a", job.VolumeRecord{
				Job: "k", Generation: 1, Writing: true, MadeBy: "j", JobActive: true,
			})},
		},
		{
			name: "a job that writes for the first time", jobs: []job.State{began(old("j", "web", job.Transfer, "/a"))},
			want: []job.VolumeRecord{row("web", "/a", job.VolumeRecord{
				Job: "j", Generation: 1, Writing: true, JobActive: true,
			})},
		},
		{
			name: "a job that has made its targets only",
			jobs: []job.State{noIdentity(made(old("j", "web", job.Connect, "/a"), "/a"))},
			want: []job.VolumeRecord{
				named("web", "web", "/a", job.VolumeRecord{Job: "j", MadeBy: "j", JobActive: true}),
			},
		},
		{
			name: "a failed job, which may be retried",
			jobs: []job.State{began(old("j", "web", job.Failed, "/a")), old("k", "db", job.Failed, "/b")},
			want: []job.VolumeRecord{row("web", "/a", job.VolumeRecord{Job: "j", Generation: 1})},
		},
		{
			name: "a job that was purged", jobs: []job.State{
				purged(made(began(old("j", "web", job.PhaseCancelled, "/a", "/b")), "/a")),
			},
			want: []job.VolumeRecord{
				row("web", "/b", job.VolumeRecord{Job: "j", Generation: 1, Owner: second}),
			},
		},
		{
			name: "a dropped set", dropped: []job.CheckpointSet{oldSet("j", "web", 1, "/a")},
			want: []job.VolumeRecord{named("web", "web-UUID", "/a", job.VolumeRecord{
				Identity: "id of /a", Stamp: "stamp of /a", Job: "j", Generation: 1, Writing: true,
			})},
		},
		{
			name: "one target of two VMs",
			jobs: []job.State{
				began(old("j", "web", job.Completed, "/a")), began(old("k", "db", job.Completed, "/a")),
				old("l", "web", job.Snapshot, "/b"), began(old("m", "db", job.Completed, "/b")),
			},
			sets: []job.CheckpointSet{oldSet("j", "web", 1, "/a"), oldSet("k", "db", 2, "/a")},
			want: []job.VolumeRecord{
				row("db", "/a", job.VolumeRecord{Stamp: "stamp of /a", Job: "k", Generation: 1}),
				row("web", "/b", job.VolumeRecord{Job: "l", JobActive: true}),
			},
		},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			got, err := openJournal(t, oldJournal(t, tc.jobs, tc.sets, tc.dropped)).Volumes(t.Context())
			must(t, err)
			ids := map[string]bool{}
			for _, r := range got {
				ids[r.ID] = true
				if r.ID == "" || r.ClaimedAt.IsZero() {
					t.Errorf("row of %s has id %q and was claimed at %v", r.Target, r.ID, r.ClaimedAt)
				}
			}
			if len(ids) != len(got) {
				t.Errorf("%d rows have %d ids", len(got), len(ids))
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(job.VolumeRecord{}, "ID", "ClaimedAt"),
				cmpopts.EquateEmpty(),
				cmpopts.SortSlices(func(a, b job.VolumeRecord) bool { return a.Target < b.Target })); diff != "" {
				t.Errorf("volumes (-want +got):\n%s", diff)
			}
		})
	}
}
