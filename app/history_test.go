package app_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store/history"
	"github.com/vmferry/vmferry/store/history/mariadb"
)

// asker asks the history as an operator does: with the database's own program.
type asker func(query string) (string, error)

// mariaDB starts a MariaDB of its own and configures it.
func mariaDB(t *testing.T, s *site, options ...string) (*mariadb.Server, asker) {
	t.Helper()
	need(t, "mariadb")
	if _, err := mariadb.Find(); err != nil {
		need(t, "mariadbd")
	}
	dir, err := os.MkdirTemp("", "vf-mariadb") //nolint:usetesting // its user must reach it, and it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o711))
	return mariaDBAt(t, s, dir, options...)
}

// mariaDBAt is mariaDB in a folder.
func mariaDBAt(t *testing.T, s *site, dir string, options ...string) (*mariadb.Server, asker) {
	t.Helper()
	server, err := mariadb.New(t.Context(), dir, options...)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	s.cfg.SQL.Driver = history.MariaDB
	if s.cfg.SQL.DSNFile, err = server.WriteDSN(s.dir); err != nil {
		t.Fatal(err)
	}
	return server, func(query string) (string, error) {
		return ask(t, "mariadb", "--no-defaults", "--skip-column-names", "--batch", "--socket="+server.Socket(),
			"--user="+mariadb.User, mariadb.Database, "-e", query)
	}
}

func sqlite(t *testing.T, s *site) asker {
	t.Helper()
	need(t, "sqlite3")
	s.cfg.SQL.Driver = history.SQLite
	return func(query string) (string, error) {
		return ask(t, "sqlite3", "-readonly", "-separator", "\t", filepath.Join(s.cfg.StateDir, "history.db"), query)
	}
}

func ask(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).Output()
	return strings.TrimSpace(string(out)), err
}

// seen is what the query of operators has shown.
type seen struct {
	percent   float64
	operation string
	bytes     int64
	status    job.Status
}

// follow asks again and again until the row says that the job has ended, for a minute at most.
func follow(t *testing.T, q asker, id job.ID) (all []seen, status string) {
	t.Helper()
	all = followUntil(t, q, id, func(s seen) bool { return s.status.Terminal() })
	return all, string(all[len(all)-1].status)
}

// followUntil asks again and again until the row is as wanted, for 90 s at most.
func followUntil(t *testing.T, q asker, id job.ID, done func(seen) bool) (all []seen) {
	t.Helper()
	end := time.Now().Add(90 * time.Second)
	for time.Now().Before(end) {
		text, err := q("SELECT progress_percent, current_operation, bytes_transferred, status FROM replication_jobs " +
			"WHERE id = '" + string(id) + "'")
		words := strings.Split(text, "\t")
		if err != nil || len(words) != 4 {
			continue // there is no row yet, or the database is away
		}
		percent, err1 := strconv.ParseFloat(words[0], 64)
		bytes, err2 := strconv.ParseInt(words[2], 10, 64)
		if err1 != nil || err2 != nil {
			t.Fatalf("the row has %q", words)
		}
		now := seen{percent, words[1], bytes, job.Status(words[3])}
		if len(all) == 0 || all[len(all)-1] != now {
			all = append(all, now)
		}
		if done(now) {
			return all
		}
	}
	t.Fatalf("the row is not as wanted: %v", all)
	return nil
}

// rising checks that no number of a row decreases.
func rising(t *testing.T, all []seen) {
	t.Helper()
	for i := range all[1:] {
		if all[i+1].percent < all[i].percent || all[i+1].bytes < all[i].bytes {
			t.Errorf("a number decreased: from %+v to %+v", all[i], all[i+1])
		}
	}
}

func TestTheRowOfTheHistoryMovesNeverFallsAndEndsWithTheJob(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds for each database")
	}
	for name, prepare := range map[string]func(*testing.T, *site) asker{
		"sqlite":  sqlite,
		"mariadb": func(t *testing.T, s *site) asker { t.Helper(); _, q := mariaDB(t, s); return q },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, 24)
			q := prepare(t, s)
			s.cfg.Report.Interval = 200 * time.Millisecond
			_, c := start(t, s.cfg)
			id := submit(t, c, job.Spec{Options: job.Options{Bandwidth: 8 << 20}})
			all, status := follow(t, q, id)
			rising(t, all)
			if last := all[len(all)-1]; status != "completed" || last.percent != 100 || last.bytes < 24<<20 {
				t.Errorf("the row ends %s with %+v", status, last)
			}
			middle := slices.DeleteFunc(slices.Clone(all), func(x seen) bool {
				return x.bytes == 0 || x.percent == 100
			})
			if len(middle) < 3 {
				t.Errorf("the row hardly moved: %v", all)
			}
			text, err := q("SELECT d.disk_id, d.sync_status, m.device_path <> '', c.round FROM vm_disks d JOIN " +
				"device_mappings m ON m.disk_id = d.disk_id JOIN cbt_history c ON c.disk_id = d.disk_id " +
				"ORDER BY d.disk_id")
			if want := "disk-2000\tcompleted\t1\t1\ndisk-2001\tcompleted\t1\t1"; err != nil || text != want {
				t.Errorf("the disks are %q, %v", text, err)
			}
			text, err = q("SELECT source_vm_name, replication_type, change_id <> '', datacenter FROM replication_jobs")
			if want := "web\tinitial\t1\tDC0"; err != nil || text != want {
				t.Errorf("the job is %q, %v", text, err)
			}
			must(t, c.Command(t.Context(), id, job.Delete))
			rows, err := c.History(t.Context(), rest.HistoryFilter{VM: "WEB", Node: app.LocalNode}, 0)
			if err != nil || len(rows) != 1 || rows[0].JobID != id || rows[0].Status != "completed" ||
				rows[0].Percent != 100 || rows[0].BytesMoved < 24<<20 || rows[0].EndedAt == nil {
				t.Errorf("after the job was deleted the history has %+v, %v", rows, err)
			}
		})
	}
}

// historyHealth is what the daemon says of its history.
func historyHealth(t *testing.T, c *rest.Client) (down bool, next string) {
	t.Helper()
	sys, err := c.System(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range sys.Sinks {
		if s.Name == "history" {
			return !s.OK, s.Next
		}
	}
	t.Fatalf("the daemon has no history: %+v", sys.Sinks)
	return false, ""
}

// fault breaks a MariaDB and mends it.
type fault struct {
	name        string
	spoil, mend func(*testing.T, *mariadb.Server)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func admin(t *testing.T, m *mariadb.Server, statement string) {
	t.Helper()
	_, err := ask(t, "mariadb", "--no-defaults", "--socket="+m.Socket(), "--user="+mariadb.Admin, "-e", statement)
	must(t, err)
}

// lockedTable lets another session lock a table.
func lockedTable() fault {
	var session *sql.Conn
	in := func(t *testing.T, statement string) {
		t.Helper()
		_, err := session.ExecContext(t.Context(), statement)
		must(t, err)
	}
	return fault{
		name: "locked",
		spoil: func(t *testing.T, m *mariadb.Server) {
			t.Helper()
			db, err := sql.Open("mysql", m.DSN(mariadb.Admin, mariadb.Database))
			must(t, err)
			t.Cleanup(func() { _ = db.Close() })
			session, err = db.Conn(t.Context())
			must(t, err)
			in(t, "LOCK TABLES replication_jobs WRITE")
		},
		mend: func(t *testing.T, _ *mariadb.Server) { t.Helper(); in(t, "UNLOCK TABLES"); must(t, session.Close()) },
	}
}

func TestWhateverHappensToMariaDBACopyGoesOnAndTheHistoryIsRightAgainSoon(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds for each fault")
	}
	for _, f := range []fault{
		{
			name:  "killed",
			spoil: func(t *testing.T, m *mariadb.Server) { t.Helper(); must(t, m.Kill()) },
			mend:  func(t *testing.T, m *mariadb.Server) { t.Helper(); must(t, m.Start(t.Context())) },
		},
		{
			name:  "stopped",
			spoil: func(t *testing.T, m *mariadb.Server) { t.Helper(); must(t, m.Pause()) },
			mend:  func(t *testing.T, m *mariadb.Server) { t.Helper(); must(t, m.Resume()) },
		},
		lockedTable(),
		{
			name:  "read-only",
			spoil: func(t *testing.T, m *mariadb.Server) { t.Helper(); admin(t, m, "SET GLOBAL read_only = 1") },
			mend:  func(t *testing.T, m *mariadb.Server) { t.Helper(); admin(t, m, "SET GLOBAL read_only = 0") },
		},
	} {
		t.Run(f.name, func(t *testing.T) { f.try(t) })
	}
}

func (f fault) try(t *testing.T) {
	t.Helper()
	s := newSite(t, 24)
	m, q := mariaDB(t, s)
	s.cfg.Report.Interval = 200 * time.Millisecond
	_, c := start(t, s.cfg)
	id := submit(t, c, job.Spec{Options: job.Options{Bandwidth: 6 << 20}})
	until(t, c, id, func(r report.Report) bool { return r.BytesTransferred > 2<<20 })
	f.spoil(t, m)
	degraded := false
	r := until(t, c, id, func(r report.Report) bool {
		degraded = degraded || slices.Contains(r.Health, report.Degraded)
		return r.Status.Terminal()
	})
	s.equal(t, r)
	if down, next := historyHealth(t, c); !degraded || !down || next == "" {
		t.Errorf("degraded: %t; the sink is down: %t, next %q", degraded, down, next)
	}
	f.mend(t, m)
	mended := time.Now()
	all, status := follow(t, q, id)
	took := time.Since(mended)
	if last := all[len(all)-1]; status != "completed" || last.percent != 100 {
		t.Errorf("the row ends %s with %+v", status, last)
	}
	t.Logf("%s: right %v after it was mended", f.name, took.Round(10*time.Millisecond))
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if down, _ := historyHealth(t, c); !down {
			return
		}
	}
	t.Error("the sink is still down")
}

func TestAFullDiskOfMariaDBStopsNoCopyAndRoomMakesTheHistoryRight(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds for a MariaDB of its own")
	}
	if os.Getuid() != 0 {
		t.Skip("only root can mount")
	}
	dir, err := os.MkdirTemp("", "vf-full") //nolint:usetesting // its user must reach it, and it holds a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := unix.Mount("vmferry-test", dir, "tmpfs", 0, "size=64m,mode=0711"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	s := newSite(t, 24)
	m, q := mariaDBAt(t, s, dir)
	t.Cleanup(func() { _ = m.Kill() }) // before its file system goes
	_, c := start(t, s.cfg)
	id := submit(t, c, job.Spec{Options: job.Options{Bandwidth: 1 << 20}})
	until(t, c, id, func(r report.Report) bool { return r.BytesTransferred > 2<<20 })
	filler, err := os.Create(filepath.Join(dir, "filler"))
	must(t, err)
	block := make([]byte, 64<<10)
	for err == nil {
		_, err = filler.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	_ = filler.Close()
	fillTables(t, c)
	r := until(t, c, id, func(r report.Report) bool {
		return terminal(r) || slices.Contains(r.Health, report.Degraded)
	})
	if terminal(r) {
		t.Error("the job does not show that its history is away")
	}
	must(t, c.Limit(t.Context(), id, 0))
	s.equal(t, until(t, c, id, terminal))
	must(t, os.Remove(filler.Name()))
	mended := time.Now()
	all, status := follow(t, q, id)
	if last := all[len(all)-1]; status != "completed" || last.percent != 100 {
		t.Errorf("the row ends %s with %+v", status, last)
	}
	t.Logf("right %v after there was room", time.Since(mended).Round(10*time.Millisecond))
}

// fillTables posts the updates of copy tools until the tables need more room than there is.
func fillTables(t *testing.T, c *rest.Client) {
	t.Helper()
	for i := range 20_000 {
		must(t, c.Progress(t.Context(), job.ID(fmt.Sprintf("job-%d", i)), rest.ProgressUpdate{
			Status: "failed", ErrorMessage: strings.Repeat("no room left ", 70),
		}))
		if i%50 > 0 {
			continue
		}
		if down, next := historyHealth(t, c); down {
			if !strings.Contains(next, "Free some space") {
				t.Errorf("next is %q", next)
			}
			return
		}
	}
	t.Error("20 000 rows fit into a disk that is full")
}

func TestADaemonStartsAndEndsWhileItsHistoryIsAway(t *testing.T) {
	cfg := app.DefaultConfig()
	cfg.Listen, cfg.StateDir, cfg.Targets.Roots = "127.0.0.1:0", t.TempDir(), []string{"/srv"}
	cfg.SQL.Driver, cfg.SQL.DSNFile = history.MariaDB, filepath.Join(t.TempDir(), "dsn")
	dsn := fmt.Sprintf("vmferry:secret@unix(%s)/oma", filepath.Join(t.TempDir(), "none"))
	must(t, os.WriteFile(cfg.SQL.DSNFile, []byte(dsn), 0o600))
	_, c := start(t, cfg)
	if _, err := c.System(t.Context()); err != nil {
		t.Error(err)
	}
	n := 10.0
	must(t, c.Progress(t.Context(), "job-x", rest.ProgressUpdate{Percent: &n}))
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if down, next := historyHealth(t, c); down {
			if !strings.Contains(next, "Start the database") {
				t.Errorf("next is %q", next)
			}
			if _, err := c.History(t.Context(), rest.HistoryFilter{}, 0); job.KindOf(err) != job.Unavailable {
				t.Errorf("its rows are read: %v", err)
			}
			return
		}
	}
	t.Error("the history that is away is not told")
}
