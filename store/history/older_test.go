package history_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store/history"
)

// older are tables as an older chain could have them: columns are missing, more than ours, narrower and of other types,
// ids are compared without regard to case, and rows of disks are counted.
func older(d *database) []string {
	if d.cfg.Driver == history.SQLite {
		return []string{
			`CREATE TABLE replication_jobs (id VARCHAR(128) COLLATE NOCASE PRIMARY KEY, source_vm_name VARCHAR(8),
			status VARCHAR(20), progress_percent DECIMAL(5,2), current_operation VARCHAR(12), bytes_transferred INT,
			total_bytes BIGINT, error_message TEXT, created_at DATETIME,
			tenant VARCHAR(20) NOT NULL, cost INT NOT NULL)`,
			`CREATE TABLE vm_disks (id INTEGER PRIMARY KEY, job_id VARCHAR(64), disk_id VARCHAR(64),
			sync_status VARCHAR(20), bytes_synced BIGINT)`,
			`CREATE TABLE device_mappings (device_path TEXT)`,
			`INSERT INTO replication_jobs (id, status, tenant, cost, created_at) VALUES ('job-old', 'completed', 'a', 1,
			'2025-01-02 03:04:05')`,
		}
	}
	return []string{
		"CREATE TABLE replication_jobs (id VARCHAR(128) PRIMARY KEY, source_vm_name VARCHAR(8) CHARACTER SET latin1, " +
			"status ENUM('pending','running','completed','failed','cancelled') DEFAULT 'pending', " +
			"progress_percent DECIMAL(5,2), current_operation VARCHAR(12) CHARACTER SET utf8mb3, " +
			"bytes_transferred INT, total_bytes BIGINT UNSIGNED, vma_throughput_mbps DECIMAL(3,2), " +
			"error_message TEXT, created_at TIMESTAMP NULL, tenant VARCHAR(20) NOT NULL, cost INT NOT NULL, " +
			"due DATETIME NOT NULL, kind ENUM('a','b') NOT NULL, " +
			"done INT GENERATED ALWAYS AS (progress_percent >= 100) VIRTUAL) " +
			"DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_general_ci",
		"CREATE TABLE vm_disks (id INT AUTO_INCREMENT PRIMARY KEY, job_id VARCHAR(64) NOT NULL, disk_id VARCHAR(64), " +
			"sync_status VARCHAR(20), bytes_synced BIGINT, UNIQUE (job_id, disk_id)) DEFAULT CHARSET=utf8mb4",
		"CREATE TABLE device_mappings (device_path TEXT)",
		"INSERT INTO replication_jobs (id, status, tenant, cost, due, kind, created_at) VALUES ('job-old', " +
			"'completed', 'a', 1, NOW(), 'b', '2025-01-02 03:04:05')",
	}
}

// schema are the columns of the older chain's tables.
func (d *database) schema(t *testing.T) []string {
	t.Helper()
	query := "SELECT table_name, column_name, column_type FROM information_schema.columns WHERE table_schema = " +
		"DATABASE() AND table_name IN ('replication_jobs', 'vm_disks', 'device_mappings') " +
		"ORDER BY table_name, ordinal_position"
	if d.cfg.Driver == history.SQLite {
		query = "SELECT name, sql FROM sqlite_master WHERE tbl_name IN ('replication_jobs', 'vm_disks', " +
			"'device_mappings') ORDER BY name"
	}
	return d.read(t, query)
}

func TestTablesOfTheOlderChainAreUsedAsTheyAre(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		d.exec(t, older(d)...)
		before := d.schema(t)
		h := d.open(t)
		wide := func(e *history.Entry) {
			e.Report.VM.Name = "wéb🚢-server-of-many-words"
			e.Report.Operation = "copies 🚢 and more"
			e.Report.Rounds[0].BytesTransferred = 1 << 40
			speed := 1e9
			e.Report.BytesPerSecond = &speed
		}
		record(t, h, entry("job-1", 1, wide))
		record(t, h, entry("job-1", 2, wide, func(e *history.Entry) { e.Report.Status = job.Paused }))
		want := "wéb🚢-ser running 48.21 copies 🚢 and NULL 67108864  0"
		if d.cfg.Driver == history.MariaDB {
			want = "wéb?-ser running 48.21 copies ? and NULL 67108864  0"
		}
		got := d.one(t, "SELECT source_vm_name, CASE WHEN status = 'paused' THEN 'running' ELSE status END, "+
			"progress_percent, current_operation, bytes_transferred, total_bytes, tenant, cost FROM replication_jobs "+
			"WHERE id = 'job-1'")
		if got != want {
			t.Errorf("the row is  %q\nwant        %q", got, want)
		}
		r := row(t, h, "job-1")
		if r.Node != "vma-1" || !r.CreatedAt.Truncate(time.Second).Equal(began.Truncate(time.Second)) {
			t.Errorf("it is read as %+v", r)
		}
		if diff := cmp.Diff(before, d.schema(t)); diff != "" {
			t.Errorf("the tables were changed: %s", diff)
		}
		for _, column := range []string{"bytes_transferred", "current_operation"} {
			if n := d.log.count("column=" + column); n != 1 {
				t.Errorf("%s was told %d times", column, n)
			}
		}
		p, err := h.Page(t.Context(), history.Filter{})
		if err != nil || len(p.Rows) != 2 || p.Rows[1].ID != "job-old" || p.Rows[1].Node != "" {
			t.Errorf("the page has %+v, %v", p.Rows, err)
		}
	})
}

func TestRowsOfDisksThatAreCountedStayOneForEachDisk(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		d.exec(t, older(d)...)
		h := d.open(t)
		record(t, h, entry("job-1", 1))
		record(t, h, entry("job-2", 2, func(e *history.Entry) { e.Report.CreatedAt = began.Add(time.Hour) }))
		d.open(t) // another session finds the same row
		record(t, d.open(t), entry("job-2", 3, func(e *history.Entry) {
			e.Report.CreatedAt = began.Add(time.Hour)
			e.Report.Disks[0].Status = job.DiskDone
		}))
		got := d.one(t, "SELECT id, job_id, disk_id, sync_status FROM vm_disks")
		if got != "1 job-2 disk-2000 completed" {
			t.Errorf("the disk is %q", got)
		}
	})
}

func TestWhereACollationTakesTwoIDsForOneTheSecondIsRefusedAndNeverMixedUp(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		d.exec(t, older(d)...)
		h := d.open(t)
		record(t, h, entry("job-A", 1))
		err := h.Record(t.Context(), []history.Entry{
			entry("JOB-a", 2, func(e *history.Entry) { e.Report.Operation = "other" }), entry("job-B", 3),
		})
		if job.KindOf(err) != job.Conflict || !strings.Contains(err.Error(), "JOB-a") || job.NextOf(err) == "" {
			t.Errorf("got %v, next %q", err, job.NextOf(err))
		}
		if a, b := row(t, h, "job-A"), row(t, h, "job-B"); a.CurrentOperation != "copying" || b.Node != "vma-1" {
			t.Errorf("the rows are %+v and %+v", a, b)
		}
		record(t, h, entry("job-A", 4, func(e *history.Entry) { e.Report.Operation = "later" }))
		if a := row(t, h, "job-A"); a.CurrentOperation != "later" {
			t.Errorf("the row is %+v", a)
		}
	})
}

func TestARowThatTheOlderChainHasMadeIsGoneOnWith(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		d.exec(t, older(d)...)
		h := d.open(t)
		record(t, h, entry("job-old", 1))
		if got := d.one(t, "SELECT status, tenant, progress_percent FROM replication_jobs"); got != "running a 48.21" {
			t.Errorf("the row is %q", got)
		}
	})
}

func TestMissingColumnsAndTheIndexAreAddedOnlyIfThatIsAllowed(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		d.exec(t, older(d)...)
		d.cfg.Alter = true
		h := d.open(t)
		record(t, h, entry("job-1", 1))
		r := row(t, h, "job-1")
		if r.SourceVMPath != "/DC0/vm/web" || r.UpdatedAt == nil || *r.ChangeID != "52 de/7" {
			t.Errorf("the row is %+v", r)
		}
		got := d.one(t, "SELECT status, tenant, vcenter_host FROM replication_jobs WHERE id = 'job-old'")
		if got != "completed a NULL" {
			t.Errorf("the old row is %q", got)
		}
		record(t, d.open(t), entry("job-1", 2)) // once more: all is there
	})
}

func TestAWatchedJobOfAnotherToolHasRowsWithoutAVM(t *testing.T) {
	inEach(t, func(t *testing.T, d *database) {
		t.Helper()
		h := d.open(t)
		for i, id := range []job.ID{"tool-1", "tool-2"} {
			record(t, h, entry(id, int64(i), func(e *history.Entry) {
				e.Report.Origin, e.Report.VM, e.Report.Rounds = report.External, report.VM{}, nil
				e.Report.Round, e.Report.Error = 0, &report.Error{Code: job.IO, Message: "read failed", Next: "Look"}
			}))
		}
		got := d.read(t, "SELECT id, job_id FROM vm_disks ORDER BY id")
		if diff := cmp.Diff([]string{"tool-1/disk-2000 tool-1", "tool-2/disk-2000 tool-2"}, got); diff != "" {
			t.Error(diff)
		}
		if r := row(t, h, "tool-1"); r.BytesTransferred != 32<<20 || *r.ErrorClass != "disk" ||
			*r.ErrorDetails != "read failed. Look" {
			t.Errorf("the row is %+v", r)
		}
	})
}
