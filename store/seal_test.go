package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store"
)

// fillAll makes a journal with rows in each table, so many jobs, and closes it.
func fillAll(t *testing.T, dir string, jobs int) {
	t.Helper()
	ctx := t.Context()
	j, err := store.OpenJournal(ctx, dir)
	must(t, err)
	for i := range jobs {
		id, vm := job.ID(fmt.Sprint("job-", i)), fmt.Sprint("/vm-", i)
		st := state(id, vm)
		st.VM = job.VM{UUID: fmt.Sprint("u-", i), Name: vm}
		key := store.Key{Name: fmt.Sprint("key-", i), BodyHash: "h"}
		_, _, err := j.CreateOnce(ctx, st, []byte(`{"event":"submitted"}`), key)
		must(t, err)
		for range 3 {
			st = then(st, job.Transfer)
			must(t, j.Save(ctx, st, []byte(`{"event":"progress"}`)))
		}
		must(t, j.Commit(ctx, job.CheckpointSet{
			VMUUID: st.VM.UUID, Job: id, Round: 1, Disks: []job.DiskCheckpoint{{Disk: "disk-2000", ChangeID: "52/2"}},
		}))
		must(t, j.ChangeVolumes(ctx, []job.VolumeRecord{volume(fmt.Sprint("v-", i), i, id)}, nil))
		must(t, j.SaveReports(ctx, []report.Report{reportOf(id, 1, int64(i+1))}))
		must(t, j.ChangeTokens(ctx, []job.Token{token(fmt.Sprint("token-", i))}, nil))
		must(t, j.ChangeLease(ctx, lease(fmt.Sprint("v-", i), int64(i+1))))
	}
	_, err = j.NodeID(ctx)
	must(t, err)
	_, err = j.NextEpoch(ctx, noon())
	must(t, err)
	_, err = j.NextLeaseEpoch(ctx, 0, noon())
	must(t, err)
	must(t, j.SetLimits(ctx, &job.Limits{Jobs: 3}))
	must(t, j.Close())
}

// content is all that a journal says, but for reports.
func content(ctx context.Context, j *store.Journal) (string, error) {
	var out strings.Builder
	jobs, err := j.Jobs(ctx)
	fmt.Fprintf(&out, "%+v\n", jobs)
	for _, st := range jobs {
		events, bad := j.Events(ctx, st.ID)
		set, worse := j.Set(ctx, st.VM.UUID)
		key := "key-" + strings.TrimPrefix(string(st.ID), "job-")
		id, found, worst := j.Lookup(ctx, store.Key{Name: key, BodyHash: "h"}, noon())
		fmt.Fprintf(&out, "%s %+v %+v %s %t\n", st.ID, events, set, id, found)
		err = errors.Join(err, bad, worse, worst)
	}
	volumes, bad := j.Volumes(ctx)
	limits, worse := j.Limits(ctx)
	node, worst := j.NodeID(ctx)
	tokens, worstOfAll := j.Tokens(ctx)
	leases, worstYet := j.Leases(ctx)
	fmt.Fprintf(&out, "%+v %+v %s %+v %+v\n", volumes, limits, node, tokens, leases)
	return out.String(), errors.Join(err, bad, worse, worst, worstOfAll, worstYet)
}

// flipped is value with one bit changed.
func flipped(value any, bit int) any {
	switch v := value.(type) {
	case int64:
		return v ^ 1<<bit
	case string:
		b := []byte(v)
		b[bit/8] ^= 1 << (bit % 8)
		return string(b)
	case []byte:
		b := bytes.Clone(v)
		b[bit/8] ^= 1 << (bit % 8)
		return b
	default:
		return nil
	}
}

func bits(value any) int {
	switch v := value.(type) {
	case int64:
		return 64
	case string:
		return 8 * len(v)
	case []byte:
		return 8 * len(v)
	default:
		return 0
	}
}

// eachColumn calls f for each column of each table, with a value and how to replace it: set returns false if another
// row has the new key.
func eachColumn(t *testing.T, db *sql.DB, f func(table, column string, value any, set func(any) bool)) {
	t.Helper()
	for table, columns := range store.Columns() {
		for _, column := range columns {
			var row int64
			var value any
			must(t, db.QueryRowContext(t.Context(), "SELECT rowid, "+column+" FROM "+table+
				" ORDER BY rowid DESC LIMIT 1").Scan(&row, &value))
			if bits(value) == 0 {
				t.Fatalf("%s.%s holds %v", table, column, value)
			}
			f(table, column, value, func(v any) bool {
				done, err := db.ExecContext(t.Context(),
					"UPDATE OR IGNORE "+table+" SET "+column+" = ? WHERE rowid = ?", v, row)
				must(t, err)
				n, err := done.RowsAffected()
				must(t, err)
				return n == 1
			})
		}
	}
}

func TestAChangedBitOfARowIsNotBelieved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fillAll(t, dir, 2)
	path := filepath.Join(dir, "journal.db")
	db := plain(t, path)
	seed := rand.New(rand.NewPCG(1, 2))
	eachColumn(t, db, func(table, column string, value any, set func(any) bool) {
		for _, bit := range seed.Perm(bits(value))[:min(16, bits(value))] {
			if !set(flipped(value, bit)) {
				continue
			}
			err := store.Inspect(t.Context(), path)
			if table == "reports" {
				must(t, err)
				continue
			}
			if job.KindOf(err) != job.Corrupt || !strings.Contains(err.Error(), "table "+table) {
				t.Errorf("bit %d of %s.%s: %v", bit, table, column, err)
			}
		}
		set(value)
	})
	must(t, store.Inspect(t.Context(), path))
}

func TestAJournalWithADamagedRowDoesNotOpen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fillAll(t, dir, 2)
	path := filepath.Join(dir, "journal.db")
	db := plain(t, path)
	eachColumn(t, db, func(table, column string, value any, set func(any) bool) {
		set(flipped(value, 4))
		var log bytes.Buffer
		j, err := store.OpenJournal(t.Context(), dir, store.WithLog(slog.New(slog.NewTextHandler(&log, nil))))
		if table == "reports" {
			must(t, err)
			all, err := j.Reports(t.Context())
			if len(all) != 1 || err != nil || !strings.Contains(log.String(), "report") {
				t.Errorf("%s.%s: %d reports, %v, log %q", table, column, len(all), err, log.String())
			}
			must(t, j.SaveReports(t.Context(), []report.Report{reportOf("job-1", 1, 2)}))
			must(t, j.Close())
			return
		}
		wantKind(t, err, job.Corrupt)
		for _, want := range []string{"table " + table, path} {
			if !strings.Contains(err.Error(), want) || job.NextOf(err) == "" {
				t.Errorf("%s.%s: error %q does not say %q, or has no next step", table, column, err, want)
			}
		}
		set(value)
	})
	openJournal(t, dir)
}

func TestARowThatIsDamagedLaterIsNotBelieved(t *testing.T) {
	t.Parallel()
	ctx, dir := t.Context(), t.TempDir()
	fillAll(t, dir, 2)
	j := openJournal(t, dir)
	db := plain(t, filepath.Join(dir, "journal.db"))
	st := state("job-1", "/vm-1")
	st.Seq = 3
	key := store.Key{Name: "key-1", BodyHash: "h"}
	reads := map[string][]func() error{
		"jobs": {
			func() error { _, err := j.Jobs(ctx); return err },
			func() error { return j.Save(ctx, then(st, job.Transfer), []byte("{}")) },
			func() error { _, err := j.Events(ctx, "job-1"); return err },
			func() error { return j.Delete(ctx, "job-1") },
			func() error { return j.Create(ctx, st, nil) },
			func() error { return j.Create(ctx, state("new", "/vm-1"), nil) },
		},
		"events": {func() error { _, err := j.Events(ctx, "job-1"); return err }},
		"sets": {
			func() error { _, err := j.Set(ctx, "u-1"); return err },
			func() error { return j.DropSet(ctx, "u-1") },
			func() error {
				return j.Commit(ctx, job.CheckpointSet{VMUUID: "u-1", Disks: []job.DiskCheckpoint{{Disk: "disk-2000"}}})
			},
		},
		"request_keys": {
			func() error { _, _, err := j.Lookup(ctx, key, noon()); return err },
			func() error { _, _, err := j.CreateOnce(ctx, state("new", "/new"), nil, key); return err },
		},
		"volumes": {
			func() error { _, err := j.Volumes(ctx); return err },
			func() error { _, err := j.VolumesOf(ctx, "job-1"); return err },
		},
	}
	reads["tokens"] = []func() error{func() error { _, err := j.Tokens(ctx); return err }}
	eachColumn(t, db, func(table, column string, value any, set func(any) bool) {
		if column != "seal" {
			return
		}
		set(flipped(value, 77))
		for i, read := range reads[table] {
			if err := read(); job.KindOf(err) != job.Corrupt {
				t.Errorf("%s, read %d: %v", table, i, err)
			}
		}
		if all, err := j.Reports(ctx); table == "reports" && (len(all) != 1 || err != nil) {
			t.Errorf("%d reports, %v", len(all), err)
		}
		set(value)
	})
	run(t, db, "UPDATE counters SET value = 1 WHERE name = 'epoch'")
	_, err := j.NextEpoch(ctx, noon())
	wantKind(t, err, job.Corrupt)
	run(t, db, "UPDATE settings SET body = '{}' WHERE name IN ('limits', 'node')")
	_, err = j.Limits(ctx)
	wantKind(t, err, job.Corrupt)
	_, err = j.NodeID(ctx)
	wantKind(t, err, job.Corrupt)
}

func TestAChangedByteOfAPageIsNoticedOrHarmless(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fillAll(t, dir, 12)
	path := filepath.Join(dir, "journal.db")
	good, err := os.ReadFile(path)
	must(t, err)
	j, err := store.OpenJournal(t.Context(), dir)
	must(t, err)
	want, err := content(t.Context(), j)
	must(t, err)
	must(t, j.Close())
	seed, refused := rand.New(rand.NewPCG(3, 4)), 0
	for page := 0; page < len(good); page += 4096 {
		for range 4 {
			at, bit := page+seed.IntN(4096), seed.IntN(8)
			for good[at] == 0 && !empty(good[page:page+4096]) { // what is zero is mostly unused
				at = page + seed.IntN(4096)
			}
			bad := bytes.Clone(good)
			bad[at] ^= 1 << bit
			if !sameOrRefused(t, path, bad, want, fmt.Sprintf("byte %d, bit %d", at, bit)) {
				refused++
			}
		}
	}
	if pages := len(good) / 4096; pages < 30 || refused < 2*pages {
		t.Errorf("%d pages, %d changes were refused", pages, refused)
	}
}

func empty(page []byte) bool { return len(bytes.Trim(page, "\x00")) == 0 }

// sameOrRefused opens a damaged file and says whether it opened with the content that is wanted.
func sameOrRefused(t *testing.T, path string, bad []byte, want, what string) bool {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "journal.db"), bad, 0o600))
	if mark, err := os.ReadFile(filepath.Join(filepath.Dir(path), "journal.mark")); err == nil {
		must(t, os.WriteFile(filepath.Join(dir, "journal.mark"), mark, 0o600))
	}
	j, err := store.OpenJournal(t.Context(), dir)
	if err != nil {
		if kind := job.KindOf(err); kind != job.Corrupt {
			t.Errorf("%s: %v is of kind %s", what, err, kind)
		}
		if after, _ := os.ReadFile(filepath.Join(dir, "journal.db")); !bytes.Equal(after, bad) {
			t.Errorf("%s: the damaged file was changed", what)
		}
		return false
	}
	got, err := content(t.Context(), j)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%s: %v, content (-want +got):\n%s", what, err, diff)
	}
	must(t, j.Close())
	return true
}
