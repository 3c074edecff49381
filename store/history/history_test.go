package history_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store/history"
)

const operators = "SELECT progress_percent, current_operation, bytes_transferred FROM replication_jobs WHERE id = "

func TestTheQueryThatOperatorsTypeShowsLiveValues(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		record(t, h, entry("job-1", 1))
		if got := d.one(t, operators+"'job-1'"); got != "48.21 copying 33554432" {
			t.Errorf("it shows %q", got)
		}
		record(t, h, entry("job-1", 2, func(e *history.Entry) {
			e.Report.Status, e.Report.Operation = job.WaitingCutover, "waits for its cut-over"
			e.Report.OverallPercent = 89.999
		}))
		got := d.one(t, "SELECT status, progress_percent, current_operation FROM replication_jobs")
		if got != "running 89.99 waits for its cut-over" {
			t.Errorf("a job that waits for its cut-over shows %q", got)
		}
		record(t, h, entry("job-1", 3, func(e *history.Entry) {
			ended := began.Add(time.Hour)
			e.Report.Status, e.Report.Operation, e.Report.OverallPercent = job.StatusCompleted, "completed", 100
			e.Report.EndedAt = &ended
		}))
		r := row(t, h, "job-1")
		if r.Status != job.StatusCompleted || r.ProgressPercent != 100 || !r.CompletedAt.Equal(began.Add(time.Hour)) ||
			!r.CreatedAt.Equal(began) || r.Node != "vma-1" || r.BytesSkipped != 1<<20 ||
			r.ReplicationType != "initial" {
			t.Errorf("the row of a completed job is %+v", r)
		}
	})
}

func TestTheBytesOfARowDoNotFallWhenANewRoundBegins(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		record(t, h, entry("job-1", 1))
		before := row(t, h, "job-1")
		record(t, h, entry("job-1", 2, func(e *history.Entry) {
			e.Report.Round, e.Report.Mode, e.Report.BytesTransferred = 2, job.Incremental, 0
			e.Report.Rounds = append(e.Report.Rounds, report.Round{
				Round: 2, Mode: job.Incremental, BytesToTransfer: 1 << 16,
			})
		}))
		after := row(t, h, "job-1")
		if after.BytesTransferred < before.BytesTransferred || after.TotalBytes != before.TotalBytes+1<<16 {
			t.Errorf("the bytes were %d of %d, then %d of %d", before.BytesTransferred, before.TotalBytes,
				after.BytesTransferred, after.TotalBytes)
		}
	})
}

func TestTheNewestVersionWinsInWhateverOrderAndHoweverOften(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h, other := d.open(t), d.open(t) // two processes of the same daemon, as one that hangs and its successor
		var all []history.Entry
		for epoch := range int64(2) {
			for seq := range int64(40) {
				e := entry("job-1", seq, func(e *history.Entry) {
					e.Report.Epoch = 2000 + epoch
					e.Report.Operation = fmt.Sprintf("at %d-%d", 2000+epoch, seq)
				})
				all = append(all, e, e)
			}
		}
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		var wg sync.WaitGroup
		next := make(chan history.Entry)
		for i := range 4 {
			wg.Go(func() {
				for e := range next {
					for {
						if err := []*history.DB{h, other}[i%2].Record(t.Context(), []history.Entry{e}); err == nil {
							break
						} else if job.KindOf(err) != job.Unavailable {
							t.Error(err)
							break
						}
					}
				}
			})
		}
		for _, e := range all {
			next <- e
		}
		close(next)
		wg.Wait()
		if got := row(t, h, "job-1").CurrentOperation; got != "at 2001-39" {
			t.Errorf("the row is %s", got)
		}
	})
}

func TestAJobThatIsSilentShowsSinceWhenAndIsRightAgainWithTheSameReport(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		since := began.Add(-time.Hour) // the clock of the watcher is an hour slower than that of the node
		says := func(seq int64, state job.Status) history.Entry {
			return entry("job-1", 7, func(e *history.Entry) {
				e.Watch = &history.Watch{Epoch: 5, Seq: seq, State: state, PolledAt: since}
				if state != "" {
					e.Watch.Since, e.Watch.Reason, e.Watch.Kind = since, "connection refused", job.Unavailable
				}
			})
		}
		record(t, h, says(1, ""))
		record(t, h, says(2, job.Unreachable))
		r := row(t, h, "job-1")
		if r.Status != job.Unreachable || r.StateSince == nil || !r.StateSince.Equal(since) ||
			r.StateReason != "connection refused" || *r.ErrorClass != "connection" || r.ProgressPercent != 48.21 ||
			r.CurrentOperation != "unreachable since 2026-03-04T04:06:07Z: connection refused" ||
			r.ErrorMessage != nil {
			t.Errorf("the row of an unreachable job is %+v", r)
		}
		record(t, h, says(1, "")) // late
		if r := row(t, h, "job-1"); r.Status != job.Unreachable {
			t.Errorf("after something late the job is %s", r.Status)
		}
		record(t, h, says(3, job.Lost))
		if r := row(t, h, "job-1"); r.Status != job.Lost || *r.ErrorMessage != "lost: connection refused" {
			t.Errorf("the row of a lost job is %+v", r)
		}
		record(t, h, says(4, ""))
		r = row(t, h, "job-1")
		if r.Status != job.Running || r.StateSince != nil || r.StateReason != "" || r.ErrorClass != nil ||
			r.CurrentOperation != "copying" {
			t.Errorf("the row of a job that is back is %+v", r)
		}
		record(t, h, entry("job-1", 8, func(e *history.Entry) {
			e.Report.Status = job.StatusCompleted
			e.Watch = &history.Watch{Epoch: 5, Seq: 5, State: job.Lost, Since: since}
		}))
		if r := row(t, h, "job-1"); r.Status != job.StatusCompleted {
			t.Errorf("a job that has ended and that its node has forgotten is %s", r.Status)
		}
	})
}

func TestNamesWithMarkupQuotesAndFourByteCharactersAreKeptAsTheyAre(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		name := `<b>wéb</b> 🚢 '"\` + "`; DROP TABLE replication_jobs; -- %_\n"
		record(t, h, entry("job-1", 1, func(e *history.Entry) { e.Report.VM.Name = name }))
		if r := row(t, h, "job-1"); r.SourceVMName != name {
			t.Errorf("the name is %q, want %q", r.SourceVMName, name)
		}
		p, err := h.Page(t.Context(), history.Filter{VM: name})
		if err != nil || len(p.Rows) != 1 {
			t.Errorf("by its name there are %d rows, %v", len(p.Rows), err)
		}
		long := strings.Repeat("🚢", 300)
		record(t, h, entry("job-1", 2, func(e *history.Entry) { e.Report.VM.Name = long }))
		record(t, h, entry("job-1", 3, func(e *history.Entry) { e.Report.VM.Name = long + "x" }))
		if r := row(t, h, "job-1"); r.SourceVMName != long[:255*4] {
			t.Errorf("a long name has %d bytes", len(r.SourceVMName))
		}
		if n := d.log.count("too narrow"); n != 1 {
			t.Errorf("it was told %d times", n)
		}
	})
}

func TestJobIDsThatDifferOnlyInCaseAreTwoRows(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		record(t, h, entry("job-A", 1), entry("JOB-a", 2))
		record(t, h, entry("JOB-a", 3, func(e *history.Entry) { e.Report.Operation = "other" }))
		a, b := row(t, h, "job-A"), row(t, h, "JOB-a")
		if a.CurrentOperation != "copying" || b.CurrentOperation != "other" {
			t.Errorf("the rows are %q and %q", a.CurrentOperation, b.CurrentOperation)
		}
		if _, err := h.Row(t.Context(), "job-a"); job.KindOf(err) != job.NotFound {
			t.Errorf("a third spelling: %v", err)
		}
	})
}

func TestARowOfAnotherDaemonIsLeftAlone(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		record(t, h, entry("job-1", 5))
		d.cfg.Writer = "daemon-2"
		other := d.open(t)
		late := entry("job-1", 9, func(e *history.Entry) {
			e.Report.Epoch += 3_600_000 // its clock is an hour ahead
			e.Report.Operation = "of another"
		})
		record(t, other, late, entry("job-2", 1))
		record(t, other, late)
		if r := row(t, h, "job-1"); r.CurrentOperation != "copying" {
			t.Errorf("the row shows %q", r.CurrentOperation)
		}
		if n := d.log.count("belongs to another daemon"); n != 1 {
			t.Errorf("it was told %d times", n)
		}
		d.exec(t, "UPDATE vmferry_jobs SET writer = '' WHERE writer = '"+writerID+"'")
		late.Report.Seq++
		record(t, other, late)
		if r := row(t, h, "job-1"); r.CurrentOperation != "of another" {
			t.Errorf("a row that was given free shows %q", r.CurrentOperation)
		}
	})
}

func TestAJobOfAnotherNodeWithTheSameIDGetsTheRowOnlyWhenTheFirstHasEnded(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		record(t, h, entry("nightly", 5))
		second := entry("nightly", 1, func(e *history.Entry) { e.Node, e.Report.Epoch = "vma-2", 10 })
		record(t, h, second)
		if r := row(t, h, "nightly"); r.Node != "vma-1" {
			t.Errorf("the row is of %s while the first job runs", r.Node)
		}
		first := entry("nightly", 6, func(e *history.Entry) { e.Report.Status = job.StatusCompleted })
		record(t, h, first)
		second.Report.Seq++
		record(t, h, second)
		first.Report.Seq++
		record(t, h, first)
		if r := row(t, h, "nightly"); r.Node != "vma-2" || r.Status != job.Running {
			t.Errorf("the row is of %s, %s", r.Node, r.Status)
		}
	})
}

func TestADiskHasOneRowOverAllJobsAndTheNewestJobHasIt(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		unit := int32(3)
		known := func(e *history.Entry) {
			e.Report.VM.VCenter, e.Report.VM.Datacenter = "vc.example", "DC0"
			d := &e.Report.Disks[0]
			d.Volume, d.Unit, d.Provisioning, d.PreviousChangeID = "vol-1", &unit, "thin", "52 de/3"
		}
		record(t, h, entry("job-1", 1, known))
		d.exec(t, "UPDATE device_mappings SET snapshot_id = 's-1', snapshot_status = 'ready'")
		record(t, h, entry("job-2", 2, known, func(e *history.Entry) {
			e.Report.CreatedAt = began.Add(time.Hour)
			e.Report.Disks[0].BytesTransferred, e.Report.Disks[0].Status = 1<<20, job.DiskDone
			e.Report.Disks[0].Target = "/targets/moved.raw"
		}))
		record(t, h, entry("job-1", 3, known)) // the older job says something more
		got := d.one(t, "SELECT id, job_id, bytes_synced, sync_status, datastore, unit_number, provisioning_type, "+
			"size_gb, disk_change_id FROM vm_disks")
		if want := "5029-uuid/disk-2000 job-2 1048576 completed ds1 3 thin 1 52 de/7"; got != want {
			t.Errorf("the disk is %q, want %q", got, want)
		}
		got = d.one(t, "SELECT volume_id, device_path, disk_id, size_bytes, snapshot_id, snapshot_status FROM "+
			"device_mappings")
		if want := "vol-1 /targets/web.raw disk-2000 67108864 s-1 ready"; got != want {
			t.Errorf("the volume is %q, want %q", got, want)
		}
		got = d.one(t, "SELECT job_id, disk_id, round, change_id, sync_type, bytes FROM cbt_history")
		if want := "job-2 disk-2000 1 52 de/7 full 67108864"; got != want {
			t.Errorf("the change id is %q, want %q", got, want)
		}
		if r := row(t, h, "job-1"); r.VCenterHost != "vc.example" || r.Datacenter != "DC0" ||
			*r.PreviousChangeID != "52 de/3" {
			t.Errorf("the row of the job is %+v", r)
		}
		if disks, err := h.Disks(t.Context(), "job-2"); err != nil || len(disks) != 1 || disks[0].SyncPercent != 50 {
			t.Errorf("the disks are %+v, %v", disks, err)
		}
		if disks, err := h.Disks(t.Context(), "job-1"); err != nil || len(disks) != 0 {
			t.Errorf("the disks of the older job are %+v, %v", disks, err)
		}
	})
}

func TestPagesHaveEachRowOnceTheNewestFirst(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		var all []history.Entry
		for i := range 250 {
			all = append(all, entry(job.ID(fmt.Sprintf("job-%03d", i)), int64(i), func(e *history.Entry) {
				e.Report.CreatedAt = began.Add(time.Duration(i/10) * time.Microsecond) // ten at a time
				if i%5 == 0 {
					e.Report.Status, e.Node = job.StatusFailed, "vma-2"
				}
			}))
		}
		record(t, h, all...)
		walk := func(f history.Filter) (ids []string) {
			for {
				p, err := h.Page(t.Context(), f)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range p.Rows {
					ids = append(ids, string(r.ID))
				}
				if p.Next == "" {
					return ids
				}
				if len(p.Rows) != f.Limit {
					t.Fatalf("a page of %d has %d rows", f.Limit, len(p.Rows))
				}
				f.Cursor = p.Next
			}
		}
		got := walk(history.Filter{Limit: 33})
		var want []string
		for i := 249; i >= 0; i-- {
			want = append(want, fmt.Sprintf("job-%03d", i))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
		for _, f := range []history.Filter{
			{Limit: 7, Status: []string{"failed", "lost"}},
			{Limit: 7, Node: "vma-2"},
			{Limit: 7, Node: "vma-2", Status: []string{"failed"}, VM: "/DC0/vm/web"},
			{Limit: 7, Node: "vma-2", VM: "VM/We"},
			{Limit: 7, From: began, To: began.Add(5 * time.Microsecond)},
			{Limit: 7, From: began.Add(20 * time.Microsecond).In(time.FixedZone("", 3600))},
		} {
			if got := walk(f); len(got) != 50 || !slices.IsSortedFunc(got, func(a, b string) int {
				return strings.Compare(b, a)
			}) {
				t.Errorf("%+v has %d rows", f, len(got))
			}
		}
		for _, f := range []history.Filter{
			{VM: "w_b"}, {VM: "%"}, {VM: "\x00"}, {VM: "!"}, {VM: "web'"}, {From: began.Add(time.Hour)},
		} {
			if got := walk(f); len(got) != 0 {
				t.Errorf("%+v has %d rows", f, len(got))
			}
		}
		for _, f := range []history.Filter{{Limit: -1}, {Limit: 1001}, {Cursor: "x"}, {Cursor: "eHx4"}} {
			if _, err := h.Page(t.Context(), f); job.KindOf(err) != job.Invalid {
				t.Errorf("%+v: %v", f, err)
			}
		}
	})
}

func TestPagesHaveEachRowOnceWhateverAnotherProgramHasWritten(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		record(t, h, entry("job-1", 1))
		times := []string{"2026-01-04 00:00:00", "2026-01-04T00:00:00Z", "2026-01-04", "2026-01-04 00:00:00.5"}
		if d.cfg.Driver == history.MariaDB {
			times[1] = "2026-01-04 00:00:00.000000"
		}
		for i := range 12 {
			d.exec(t, fmt.Sprintf("INSERT INTO replication_jobs (id, created_at) VALUES ('other-%02d', '%s')", i,
				times[i%len(times)]))
		}
		if d.cfg.Driver == history.SQLite { // whose columns take numbers of any size
			d.exec(t, "UPDATE replication_jobs SET progress_percent = 9e999, bytes_transferred = 1e300 "+
				"WHERE id = 'other-03'")
		}
		got := map[string]int{}
		f := history.Filter{Limit: 1}
		for pages := 0; ; pages++ {
			p, err := h.Page(t.Context(), f)
			if err != nil || pages > 20 {
				t.Fatalf("after %d pages with %v: %v", pages, got, err)
			}
			for _, r := range p.Rows {
				got[string(r.ID)]++
				if r.BytesTransferred < 0 || r.ProgressPercent > 100 {
					t.Errorf("a row has %d bytes and %v percent", r.BytesTransferred, r.ProgressPercent)
				}
			}
			if f.Cursor = p.Next; p.Next == "" {
				break
			}
		}
		if len(got) != 13 {
			t.Errorf("the pages have %v", got)
		}
		empty := base64.RawURLEncoding.EncodeToString([]byte("|job-1"))
		if _, err := h.Page(t.Context(), history.Filter{Cursor: empty}); job.KindOf(err) != job.Invalid {
			t.Errorf("a cursor without a time: %v", err)
		}
	})
}

func TestAMigrationThatBrokeHalfwayIsRepeated(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		broken := fstest.MapFS{}
		for _, name := range []string{"00001_oma.sql", "00002_marks.sql"} {
			text, err := history.Migrations().(interface {
				ReadFile(string) ([]byte, error)
			}).ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			s := strings.Replace(string(text), "CREATE TABLE IF NOT EXISTS device_mappings (",
				"CREATE TABLE IF NOT EXISTS device_mappings (((", 1)
			broken[name] = &fstest.MapFile{Data: []byte(s)}
		}
		good := d.cfg
		d.cfg = history.WithMigrations(d.cfg, broken)
		if err := d.open(t).Record(t.Context(), []history.Entry{entry("job-1", 1)}); err == nil {
			t.Fatal("a broken migration went through")
		}
		d.cfg = good
		h := d.open(t)
		record(t, h, entry("job-1", 1))
		if r := row(t, h, "job-1"); r.CurrentOperation != "copying" {
			t.Errorf("the row is %+v", r)
		}
	})
}

func TestADatabaseThatComesBackEmptyGetsItsTablesAndTheKnownJobs(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		record(t, h, entry("job-1", 1), entry("job-2", 2))
		if d.cfg.Driver == history.SQLite {
			for _, end := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(d.cfg.Path + end); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
		} else {
			d.exec(t, "DROP TABLE replication_jobs, vm_disks, device_mappings, cbt_history, vmferry_jobs, "+
				"vmferry_disks, vmferry_schema")
			if err := h.Record(t.Context(), []history.Entry{entry("job-1", 2)}); job.KindOf(err) != job.Unavailable {
				t.Errorf("without its tables: %v", err)
			}
		}
		record(t, h, entry("job-1", 2), entry("job-2", 2))
		if n := d.one(t, "SELECT COUNT(*) FROM replication_jobs"); n != "2" {
			t.Errorf("it has %s rows", n)
		}
	})
}

func TestATableThatWasRemovedIsMadeAgainWithTheKnownJobs(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		record(t, h, entry("job-1", 1), entry("job-2", 2))
		d.exec(t, "DROP TABLE replication_jobs", "DROP TABLE vm_disks")
		for range 2 { // the first call finds out
			if err := h.Record(t.Context(), []history.Entry{entry("job-1", 2), entry("job-2", 2)}); err == nil {
				break
			} else if job.KindOf(err) != job.Unavailable {
				t.Fatal(err)
			}
		}
		if n := d.one(t, "SELECT COUNT(*) FROM replication_jobs"); n != "2" {
			t.Errorf("it has %s rows", n)
		}
		if n := d.one(t, "SELECT COUNT(*) FROM vm_disks"); n != "1" {
			t.Errorf("it has %s disks", n)
		}
	})
}

func TestTheFileOfTheHistoryIsForVmferrysUserOnly(t *testing.T) {
	d := newSQLite(t)
	record(t, d.open(t), entry("job-1", 1))
	files, err := filepath.Glob(d.cfg.Path + "*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", f, info.Mode(), err)
		}
	}
}

func TestAConfigurationThatCannotWorkIsRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, cfg := range map[string]history.Config{
		"no writer":      {Driver: history.SQLite, Path: "/x"},
		"relative path":  {Driver: history.SQLite, Path: "x", Writer: "w"},
		"unknown driver": {Driver: "oracle", Writer: "w"},
		"no file":        {Driver: history.MariaDB, Writer: "w", DSNFile: filepath.Join(dir, "none")},
		"open to all":    {Driver: history.MariaDB, Writer: "w", DSNFile: write("a", "u:secret@unix(/s)/oma", 0o644)},
		"no database":    {Driver: history.MariaDB, Writer: "w", DSNFile: write("b", "u:secret@unix(/s)/", 0o600)},
		"not an address": {Driver: history.MariaDB, Writer: "w", DSNFile: write("c", "secret", 0o600)},
		"an unknown word": {
			Driver: history.MariaDB, Writer: "w", DSNFile: write("d", "u:secret@tcp(h)/d?tls=x", 0o600),
		},
	} {
		h, err := history.Open(cfg)
		if job.KindOf(err) != job.Invalid || strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("%s: %v, %v", name, h, err)
		}
	}
}

func TestEntriesWithoutANodeOrAVersionAreRefused(t *testing.T) {
	h := newSQLite(t).open(t)
	for _, e := range []history.Entry{
		entry("job-1", 1, func(e *history.Entry) { e.Node = "" }), entry("", 1),
		entry("job-1", 1, func(e *history.Entry) { e.Report.Epoch = 0 }),
	} {
		if err := h.Record(t.Context(), []history.Entry{e}); job.KindOf(err) != job.Invalid {
			t.Errorf("%+v: %v", e, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := h.Record(ctx, []history.Entry{entry("job-1", 1)}); job.KindOf(err) != job.Cancelled {
		t.Errorf("a call that was cancelled: %v", err)
	}
}
