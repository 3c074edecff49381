package store_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

// killed is the state directory of a writer that was killed, with a log that is not in the database yet.
func killed(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	killWriter(t, dir, 60, func(string, string, int64) {})
	if len(files(t, dir)["journal.db-wal"]) < 1<<16 {
		t.Fatal("the log is short")
	}
	return dir
}

// files are the contents of all files in a folder.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	out := map[string][]byte{}
	for _, e := range entries {
		out[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name()))
		must(t, err)
	}
	return out
}

// folder makes a folder with these files; those that are nil are left out.
func folder(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if data != nil {
			must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
		}
	}
	return dir
}

// open opens a journal and returns what it logged.
func openLogged(t *testing.T, dir string) (*store.Journal, string) {
	t.Helper()
	var log bytes.Buffer
	j, err := store.OpenJournal(t.Context(), dir, store.WithLog(slog.New(slog.NewTextHandler(&log, nil))))
	must(t, err)
	return j, log.String()
}

func TestAJournalThatLostWritesIsRefused(t *testing.T) {
	t.Parallel()
	good, other := files(t, killed(t)), files(t, killed(t))
	const db, wal, shm, mark = "journal.db", "journal.db-wal", "journal.db-shm", "journal.mark"
	flip := func(data []byte) []byte {
		out := bytes.Clone(data)
		out[len(out)/2] ^= 4
		return out
	}
	tests := []struct {
		name   string
		change map[string][]byte
		says   string
		goesOn bool // once journal.mark is removed
	}{
		{"the log is removed", map[string][]byte{wal: nil, shm: nil}, "writes are lost", true},
		{"the log is removed, its index is there", map[string][]byte{wal: nil}, "writes are lost", true},
		{"the log is cut", map[string][]byte{wal: good[wal][:len(good[wal])/2]}, "writes are lost", true},
		{"the log is empty", map[string][]byte{wal: {}}, "writes are lost", true},
		{"one bit of the log is wrong", map[string][]byte{wal: flip(good[wal]), shm: nil}, "writes are lost", true},
		{"the log is of another journal", map[string][]byte{wal: other[wal], shm: nil}, "", false},
		{"the database is removed", map[string][]byte{db: nil}, "removed or emptied", false},
		{"the database is empty", map[string][]byte{db: {}, mark: nil}, "removed or emptied", false},
		{"all but the mark is removed", map[string][]byte{db: nil, wal: nil, shm: nil}, "another journal", true},
		{"the mark is of another journal", map[string][]byte{mark: other[mark]}, "another journal", true},
		{"the mark is damaged", map[string][]byte{mark: []byte("garbage")}, "journal.mark is damaged", true},
		{"the mark is empty", map[string][]byte{mark: {}}, "journal.mark is damaged", true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, good)
			for name, data := range tc.change {
				must(t, os.Remove(filepath.Join(dir, name)))
				if data != nil {
					must(t, os.WriteFile(filepath.Join(dir, name), data, 0o600))
				}
			}
			before := files(t, dir)
			for range 2 { // it is no better at the second try
				_, err := store.OpenJournal(t.Context(), dir)
				wantKind(t, err, job.Corrupt)
				if !strings.Contains(err.Error(), filepath.Join(dir, db)) || !strings.Contains(err.Error(), tc.says) ||
					job.NextOf(err) == "" {
					t.Errorf("error %q does not say %q, or has no next step (%q)", err, tc.says, job.NextOf(err))
				}
			}
			after := files(t, dir)
			for _, name := range []string{db, wal, mark} {
				if string(before[name]) != string(after[name]) {
					t.Errorf("%s was changed", name)
				}
			}
			if !tc.goesOn {
				return
			}
			if err := os.Remove(filepath.Join(dir, mark)); err != nil {
				t.Fatal(err)
			}
			j, log := openLogged(t, dir)
			must(t, j.Close())
			if before[db] != nil && !strings.Contains(log, "full one") {
				t.Errorf("log is %q", log)
			}
			j, log = openLogged(t, dir)
			must(t, j.Close())
			if log != "" {
				t.Errorf("the second start logs %q", log)
			}
		})
	}
	for name, change := range map[string][]string{"everything in place": nil, "without the index of the log": {shm}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t, good)
			for _, file := range change {
				must(t, os.Remove(filepath.Join(dir, file)))
			}
			for range 2 { // after a kill, after a clean end
				j, log := openLogged(t, dir)
				if set, err := j.Set(t.Context(), "U"); set == nil || err != nil || log != "" {
					t.Errorf("set %+v, %v, log %q", set, err, log)
				}
				must(t, j.Close())
			}
		})
	}
}

func TestNothingOfABackupIsBelievedOfTargets(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	fillAll(t, dir, 2)
	backup := files(t, dir)
	j, err := store.OpenJournal(ctx, dir)
	must(t, err)
	must(t, j.Create(ctx, state("later", "/later"), nil))
	must(t, j.Close())
	newer := files(t, dir)
	backup["journal.mark"] = newer["journal.mark"]
	dir = folder(t, backup)
	_, err = store.OpenJournal(ctx, dir)
	wantKind(t, err, job.Corrupt)
	must(t, os.Remove(filepath.Join(dir, "journal.mark")))

	j, log := openLogged(t, dir)
	if !strings.Contains(log, "level=WARN") || strings.Count(log, "\n") != 1 {
		t.Errorf("log is %q", log)
	}
	set, err := j.Set(ctx, "u-0")
	if set != nil || err != nil {
		t.Errorf("set is %+v, %v", set, err)
	}
	got, err := j.Volumes(ctx)
	must(t, err)
	want := []job.VolumeRecord{volume("v-0", 0, "job-0"), volume("v-1", 1, "job-1")}
	for i := range want {
		want[i].JobActive, want[i].Renewed, want[i].Lease = true, true, want[i].ID
		if got[i].ID == want[i].ID || !got[i].AdoptedAt.After(want[i].AdoptedAt) {
			t.Errorf("row %s was adopted at %v", got[i].ID, got[i].AdoptedAt)
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(job.VolumeRecord{}, "ID", "AdoptedAt")); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
	must(t, j.Commit(ctx, job.CheckpointSet{VMUUID: "u-0", Job: "job-0", Round: 2, Disks: []job.DiskCheckpoint{{}}}))
	must(t, j.Close())

	j, log = openLogged(t, dir)
	set, err = j.Set(ctx, "u-0")
	if set == nil || set.Generation != 2 || err != nil || log != "" {
		t.Errorf("after the first start: set %+v, %v, log %q", set, err, log)
	}
	must(t, j.Close())
	must(t, os.WriteFile(filepath.Join(dir, "journal.mark"), newer["journal.mark"], 0o600))
	_, err = store.OpenJournal(ctx, dir)
	wantKind(t, err, job.Corrupt)
}

func TestTheFirstStartAfterAnUpgradeNeedsNoMark(t *testing.T) {
	t.Parallel()
	dir := oldJournal(t, nil, []job.CheckpointSet{oldSet("j", "web", 1, "/a")}, nil)
	blocked := filepath.Join(dir, "journal.mark.new")
	must(t, os.Mkdir(blocked, 0o700)) // it ends after the upgrade, before there is a mark
	_, err := store.OpenJournal(t.Context(), dir)
	wantKind(t, err, job.Unavailable)
	must(t, os.Remove(blocked))
	must(t, os.WriteFile(blocked, []byte("of a start that was killed"), 0o600))
	for range 2 {
		j, log := openLogged(t, dir)
		set, err := j.Set(t.Context(), "web-uuid")
		if set == nil || err != nil || log != "" {
			t.Errorf("set is %+v, %v, log %q", set, err, log)
		}
		must(t, j.Close())
	}
	if _, err := os.Stat(blocked); !os.IsNotExist(err) {
		t.Errorf("%s was left: %v", blocked, err)
	}
}

func TestAMarkThatCannotBeReadIsNotAMissingOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fillAll(t, dir, 1)
	must(t, os.Remove(filepath.Join(dir, "journal.mark")))
	must(t, os.Mkdir(filepath.Join(dir, "journal.mark"), 0o700))
	_, err := store.OpenJournal(t.Context(), dir)
	wantKind(t, err, job.Unavailable)
	must(t, os.Remove(filepath.Join(dir, "journal.mark")))
}

func TestEachWriteIsMarked(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	j := openJournal(t, dir)
	last := ""
	for i := range 20 {
		must(t, j.Create(ctx, state(job.ID(fmt.Sprint(i)), fmt.Sprint("/", i)), nil))
		now := string(files(t, dir)["journal.mark"])
		if last != "" && (now <= last || len(now) != len(last)) {
			t.Fatalf("mark %q follows %q", now, last)
		}
		last = now
	}
}

// TestAFirstStartThatWasCutShortIsTakenBack leaves the rollback journal that SQLite keeps while it makes the file.
func TestAFirstStartThatWasCutShortIsTakenBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	db := plain(t, filepath.Join(dir, "journal.db"))
	db.SetMaxOpenConns(1)
	for _, s := range []string{
		"PRAGMA cache_size = 1", "CREATE TABLE x (y)", "INSERT INTO x VALUES (zeroblob(100000))", "BEGIN",
		"UPDATE x SET y = randomblob(200000)",
	} {
		run(t, db, s)
	}
	hot := files(t, dir)
	if len(hot["journal.db-journal"]) == 0 {
		t.Fatal("there is no rollback journal")
	}
	dir = folder(t, hot)
	j := openJournal(t, dir)
	must(t, j.Create(t.Context(), state("a", "/web"), nil))
	if _, err := os.Stat(filepath.Join(dir, "journal.db-journal")); !os.IsNotExist(err) {
		t.Errorf("the rollback journal is left: %v", err)
	}
}
