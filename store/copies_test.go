package store_test

import (
	"database/sql"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store"
)

// recorded puts a recorded journal into a new state directory.
func recorded(t *testing.T, name string) (dir, path string) {
	t.Helper()
	dir = t.TempDir()
	path = filepath.Join(dir, "journal.db")
	unpack(t, "testdata/journals/"+name+".db.gz", path)
	if mark, err := os.ReadFile("testdata/journals/" + name + ".mark"); err == nil {
		must(t, os.WriteFile(filepath.Join(dir, "journal.mark"), mark, 0o600))
	}
	return dir, path
}

// rows are all rows of all tables of a journal, as text.
func rows(t *testing.T, path string) (out []string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?mode=ro")
	must(t, err)
	defer db.Close()
	var names []string
	query(t, db, "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name", func(v []any) {
		names = append(names, fmt.Sprint(v[0]))
	})
	for _, name := range names {
		query(t, db, "SELECT * FROM "+name, func(v []any) { out = append(out, fmt.Sprintf("%s %v", name, v)) })
	}
	return out
}

func query(t *testing.T, db *sql.DB, text string, row func(values []any)) {
	t.Helper()
	found, err := db.QueryContext(t.Context(), text)
	must(t, err)
	defer found.Close()
	columns, err := found.Columns()
	must(t, err)
	for found.Next() {
		values, dest := make([]any, len(columns)), make([]any, len(columns))
		for i := range values {
			dest[i] = &values[i]
		}
		must(t, found.Scan(dest...))
		row(values)
	}
	must(t, found.Err())
}

func copiesOf(t *testing.T, path string) []string {
	t.Helper()
	found, err := filepath.Glob(path + ".*")
	must(t, err)
	return found
}

func openAndClose(t *testing.T, dir string, o ...store.Option) {
	t.Helper()
	j, err := store.OpenJournal(t.Context(), dir, o...)
	must(t, err)
	must(t, j.Close())
}

func TestAJournalIsKeptAsItWasBeforeItsTablesAreChanged(t *testing.T) {
	for _, name := range []string{"1-moved", "1-several", "2-planning", "2-prepared", "2-waiting"} {
		t.Run(name, func(t *testing.T) {
			dir, path := recorded(t, name)
			before := rows(t, path)
			must(t, os.WriteFile(path+".copy", []byte("half"), 0o600)) // of a start that was killed
			var log strings.Builder
			openAndClose(t, dir, store.WithLog(slog.New(slog.NewTextHandler(&log, nil))))
			found := copiesOf(t, path)
			if len(found) != 1 || !strings.HasPrefix(filepath.Base(found[0]), "journal.db.v"+name[:1]+"-") ||
				!strings.Contains(log.String(), found[0]) {
				t.Fatalf("copies %v, log %s", found, log.String())
			}
			if d := cmp.Diff(before, rows(t, found[0])); d != "" {
				t.Errorf("the copy is another journal (-before +copy):\n%s", d)
			}
			if info, err := os.Stat(found[0]); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			state, err := store.LookAtJournal(t.Context(), dir)
			must(t, err)
			if state.Version != state.Known || !slices.Equal(state.Copies, []string{filepath.Base(found[0])}) {
				t.Errorf("the journal is seen as %+v", state)
			}
			openAndClose(t, dir)
			if again := copiesOf(t, path); len(again) != 1 {
				t.Errorf("a second start made copies: %v", again)
			}
		})
	}
}

func TestAJournalThatIsNotChangedIsNotCopied(t *testing.T) {
	dir, path := recorded(t, "5-leases")
	openAndClose(t, dir)
	fresh := t.TempDir()
	openAndClose(t, fresh)
	if found := append(copiesOf(t, path), copiesOf(t, filepath.Join(fresh, "journal.db"))...); len(found) > 0 {
		t.Errorf("copies: %v", found)
	}
	_, err := store.LookAtJournal(t.Context(), t.TempDir())
	wantKind(t, err, job.NotFound)
}

func TestTwoCopiesAreKeptTheNewestOfEachVersion(t *testing.T) {
	dir, path := recorded(t, "2-waiting")
	for _, name := range []string{
		"v0-20200101T000000Z", "v1-20210101T000000Z", "v1-20220101T000000Z", "v2-20230101T000000Z",
		"vx-20230101T000000Z",
	} {
		must(t, os.WriteFile(path+"."+name, []byte(name), 0o600))
	}
	openAndClose(t, dir)
	var got []string
	for _, f := range copiesOf(t, path) {
		got = append(got, strings.TrimPrefix(filepath.Base(f), "journal.db."))
	}
	if len(got) != 3 || got[0] != "v1-20220101T000000Z" || !strings.HasPrefix(got[1], "v2-") ||
		got[1] == "v2-20230101T000000Z" || got[2] != "vx-20230101T000000Z" {
		t.Errorf("there are %v", got)
	}
}

func TestAnOlderProgramNamesBothVersionsAndTheCommandThatGoesBack(t *testing.T) {
	dir, path := recorded(t, "2-waiting")
	openAndClose(t, dir)
	db, err := sql.Open("sqlite", "file:"+path) // a newer program was here
	must(t, err)
	_, err = db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9, 1)")
	must(t, err)
	must(t, db.Close())
	before := files(t, dir)
	_, err = store.OpenJournal(t.Context(), dir)
	wantKind(t, err, job.Corrupt)
	if !strings.Contains(err.Error(), "of version 9, this program knows versions up to 5") {
		t.Errorf("%v", err)
	}
	_, looked := store.LookAtJournal(t.Context(), dir)
	wantKind(t, looked, job.Corrupt)
	if d := cmp.Diff(before, files(t, dir)); d != "" {
		t.Errorf("files were changed (-before +after):\n%s", d)
	}
	_, command, ok := strings.Cut(job.NextOf(err), " by: ")
	if !ok || !strings.Contains(job.NextOf(err), "version 2") {
		t.Fatalf("next %q", job.NextOf(err))
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-ec", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
	j, err := store.OpenJournal(t.Context(), dir)
	must(t, err)
	defer j.Close()
	if jobs, err := j.Jobs(t.Context()); err != nil || len(jobs) == 0 {
		t.Errorf("%d jobs, %v", len(jobs), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "journal.newer", "journal.db")); err != nil {
		t.Errorf("the newer journal is gone: %v", err)
	}
}

func TestWithoutACopyAnOlderProgramSaysSo(t *testing.T) {
	dir, path := recorded(t, "5-leases")
	openAndClose(t, dir)
	db, err := sql.Open("sqlite", "file:"+path)
	must(t, err)
	_, err = db.ExecContext(t.Context(), "INSERT INTO goose_db_version (version_id, is_applied) VALUES (9, 1)")
	must(t, err)
	must(t, db.Close())
	_, err = store.OpenJournal(t.Context(), dir)
	wantKind(t, err, job.Corrupt)
	if !strings.Contains(job.NextOf(err), "no copy") {
		t.Errorf("next %q", job.NextOf(err))
	}
}
