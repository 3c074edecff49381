package store_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

// TestRecordedJournalsLoadForEver opens journals that earlier versions wrote. The jobs must be there, and each state
// must still be the fold of its events. A file is never changed or removed; a version that changes the content of
// journals adds one, as testdata/journals/README.md says.
func TestRecordedJournalsLoadForEver(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/journals/*.db.gz")
	if err != nil || len(files) == 0 {
		t.Fatalf("there are no journals: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".db.gz"), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			unpack(t, file, filepath.Join(dir, "journal.db"))
			mark, err := os.ReadFile(strings.TrimSuffix(file, ".db.gz") + ".mark")
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, "journal.mark"), mark, 0o600)
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			j, err := store.OpenJournal(t.Context(), dir)
			if err != nil {
				t.Fatal(err)
			}
			defer j.Close()
			jobs, err := j.Jobs(t.Context())
			if err != nil || len(jobs) == 0 {
				t.Fatalf("%d jobs, %v", len(jobs), err)
			}
			for _, st := range jobs {
				foldsTo(t, j, st)
			}
			if _, err := j.Reports(t.Context()); err != nil {
				t.Error(err)
			}
			ownTargets(t, j, jobs)
			ownLeases(t, j, filepath.Base(file) >= "5")
		})
	}
}

// ownLeases checks that each lease is that of a volume in the ledger, and can be ended as a start does it. Versions
// before 5 have none: then each volume is free.
func ownLeases(t *testing.T, j *store.Journal, recorded bool) {
	t.Helper()
	all, err := j.Leases(t.Context())
	must(t, err)
	if recorded != (len(all) > 0) {
		t.Errorf("there are %d leases", len(all))
	}
	rows, err := j.Volumes(t.Context())
	must(t, err)
	open := 0
	for _, r := range rows {
		l, err := j.Lease(t.Context(), r.LeaseID())
		must(t, err)
		if recorded && (l.Epoch == 0 || l.Holder.Job != r.Job) || !recorded && (l.Epoch != 0 || !l.Free()) {
			t.Errorf("the lease of %s is %+v", r.Target, l)
		}
		if l.Free() {
			continue
		}
		open++
		next, do, err := l.Apply(job.LeaseRestarted{}, noon())
		must(t, err)
		if next.State != job.LeaseEnding || len(do) != 1 {
			t.Errorf("after a restart the lease is %+v, and %+v is done", next, do)
		}
		next.Revision++
		must(t, j.ChangeLease(t.Context(), next))
	}
	if recorded && open == 0 {
		t.Error("no lease was recorded while it was held")
	}
}

// ownTargets checks that the ledger has one row for each disk that a job has written to, of that VM, and with the stamp
// of the VM's set.
func ownTargets(t *testing.T, j *store.Journal, jobs []job.State) {
	t.Helper()
	all, err := j.Volumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]job.VolumeRecord{}
	for _, r := range all {
		rows[r.Target] = r
	}
	want := map[string]bool{}
	for _, st := range jobs {
		set, err := j.Set(t.Context(), st.VM.UUID)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range st.Disks {
			want[d.Target] = true
			r := rows[d.Target]
			if r.Owner.VM != st.VM.UUID || r.Owner.Disk != d.Disk.ID || r.Owner.Name != vmName(st) ||
				r.Size != d.Disk.Capacity || r.Identity != d.TargetIdentity {
				t.Errorf("job %s, %s: the row is %+v", st.ID, d.Disk.ID, r)
			}
			if set == nil {
				continue
			}
			was, _ := set.Disk(d.Disk.ID)
			if r.Stamp != was.TargetStamp || r.Writing || r.Generation != 1 || r.Job != set.Job {
				t.Errorf("job %s, %s: the row is %+v, the set has %+v", st.ID, d.Disk.ID, r, was)
			}
		}
	}
	if len(all) != len(want) || len(want) == 0 {
		t.Errorf("%d rows for %d targets", len(all), len(want))
	}
}

// vmName is what the ledger calls a job's VM.
func vmName(st job.State) string {
	if st.VM.Path != "" {
		return st.VM.Path
	}
	return st.VM.Name
}

// foldsTo compares a state with the fold of its events, and applies one more event to it.
func foldsTo(t *testing.T, j *store.Journal, want job.State) {
	t.Helper()
	events, err := j.Events(t.Context(), want.ID)
	if err != nil || int64(len(events)) != want.Seq {
		t.Fatalf("%d events, the state is at %d: %v", len(events), want.Seq, err)
	}
	var got job.State
	for _, e := range events {
		ev, at, err := job.DecodeEvent(e.JSON)
		if err != nil {
			t.Fatal(err)
		}
		if got, _, err = got.Apply(ev, at); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(asJSON(t, want), asJSON(t, got)); d != "" {
		t.Errorf("job %s: the fold of its events is another state (-kept +fold):\n%s", want.ID, d)
	}
	if !want.Phase.Terminal() {
		if _, _, err := want.Apply(job.Restarted{}, want.CreatedAt); err != nil {
			t.Errorf("job %s cannot continue: %v", want.ID, err)
		}
	}
}

func asJSON(t *testing.T, st job.State) string {
	t.Helper()
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func unpack(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, z)
	if err = errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}
