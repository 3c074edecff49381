package history_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/store/history"
	"github.com/vmferry/vmferry/store/history/mariadb"
)

// broken is a MariaDB of the test's own, which it may break.
func broken(t *testing.T, options ...string) (*mariadb.Server, *database) {
	t.Helper()
	needMariaDB(t)
	if testing.Short() {
		t.Skip("takes some seconds for a MariaDB of its own")
	}
	dir, err := serverDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	server, err := mariadb.New(t.Context(), dir, options...)
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Kill() })
	d := &database{dsn: server.DSN(mariadb.Admin, mariadb.Database), log: &logged{}}
	d.cfg = history.Config{Driver: history.MariaDB, Writer: writerID, Log: d.logger()}
	if d.cfg.DSNFile, err = server.WriteDSN(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	return server, d
}

// try records an entry and wants an error of that kind, with a next step.
func try(t *testing.T, h *history.DB, e history.Entry, kind job.Kind, words string) {
	t.Helper()
	begin := time.Now()
	err := h.Record(t.Context(), []history.Entry{e})
	next := job.NextOf(err)
	if job.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err)+" "+next, words) || next == "" {
		t.Errorf("got %v (%s), next %q; want %s with %q", err, job.KindOf(err), next, kind, words)
	}
	t.Logf("it took %v", time.Since(begin))
}

func TestAMariaDBThatRefusesSaysWhatToDoAndIsRightAgainAtOnce(t *testing.T) {
	server, d := broken(t, "--max-connections=10")
	h := d.open(t)
	record(t, h, entry("job-1", 1))
	seq := int64(1)
	next := func() history.Entry { seq++; return entry("job-1", seq) }
	right := func() {
		t.Helper()
		record(t, h, next())
		if got := d.one(t, "SELECT seq FROM vmferry_jobs"); got != fmt.Sprint(seq) {
			t.Errorf("the row is at %s, want %d", got, seq)
		}
	}
	admin := d.connect(t)
	exec := func(statement string) {
		t.Helper()
		if _, err := admin.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}

	exec("SET GLOBAL read_only = 1")
	try(t, h, next(), job.Unavailable, "read_only = 0")
	exec("SET GLOBAL read_only = 0")
	right()

	lock, err := admin.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lock.ExecContext(t.Context(), "UPDATE vmferry_jobs SET writer = writer"); err != nil {
		t.Fatal(err)
	}
	try(t, h, next(), job.Unavailable, "1205")
	if err := lock.Rollback(); err != nil {
		t.Fatal(err)
	}
	right()

	session, err := admin.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	in := func(statement string) {
		t.Helper()
		if _, err := session.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	in("LOCK TABLES replication_jobs WRITE")
	for range 2 {
		try(t, h, next(), job.Unavailable, "1205")
	}
	if n := waitingIn(t, admin); n > 0 {
		t.Errorf("%d statements still wait in the server", n)
	}
	in("UNLOCK TABLES")
	_ = session.Close()
	right()

	exec("REVOKE INSERT, UPDATE ON oma.* FROM vmferry@localhost")
	try(t, d.open(t), next(), job.Permission, "Grant") // rights are those of the connection's begin
	exec("GRANT ALL ON oma.* TO vmferry@localhost")
	right()

	exec("ALTER USER vmferry@localhost IDENTIFIED BY 'other'")
	fresh := d.open(t)
	try(t, fresh, next(), job.Auth, "sql.dsn_file")
	exec("ALTER USER vmferry@localhost IDENTIFIED BY ''")
	right()

	full(t, d, server, next(), right)

	exec("DROP DATABASE oma")
	try(t, d.open(t), next(), job.NotFound, "Create the database")
	exec("CREATE DATABASE oma")
	for range 2 {
		if err := h.Record(t.Context(), []history.Entry{next()}); err == nil {
			break
		}
	}
	right()
}

// TestWhatTheAddressSaysOfTheConnectionDoesNotChangeWhatIsWritten gives the address parameters with which equal rows
// count as missing, times are those of another zone, and numbers that are too large are cut.
func TestWhatTheAddressSaysOfTheConnectionDoesNotChangeWhatIsWritten(t *testing.T) {
	d := newMariaDB(t)
	text, err := os.ReadFile(d.cfg.DSNFile)
	if err != nil {
		t.Fatal(err)
	}
	more := "?clientFoundRows=false&loc=Asia%2FTokyo&time_zone=%27%2B09%3A00%27&sql_mode=%27%27&parseTime=true&" +
		"multiStatements=true&collation=latin1_swedish_ci"
	if err := os.WriteFile(d.cfg.DSNFile, append(text, more...), 0o600); err != nil {
		t.Fatal(err)
	}
	record(t, d.open(t), entry("job-1", 1))
	h := d.open(t) // it does not know that the row of the disk is the same
	record(t, h, entry("job-1", 2), entry("JOB-1", 1))
	if r := row(t, h, "job-1"); !r.CreatedAt.Equal(began) {
		t.Errorf("it was created at %v", r.CreatedAt)
	}
	got := d.one(t, "SELECT created_at FROM replication_jobs WHERE id = 'job-1'")
	if got != "2026-03-04 05:06:07.000089" {
		t.Errorf("the table has %q", got)
	}
	if n := d.one(t, "SELECT COUNT(*) FROM vm_disks"); n != "1" {
		t.Errorf("there are %s disks", n)
	}
}

// waitingIn counts the statements of vmferry's user that run in the server.
func waitingIn(t *testing.T, admin *sql.DB) (n int) {
	t.Helper()
	err := admin.QueryRowContext(t.Context(), "SELECT COUNT(*) FROM information_schema.processlist WHERE "+
		"user = 'vmferry' AND command = 'Query'").Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// full uses up all connections.
func full(t *testing.T, d *database, server *mariadb.Server, e history.Entry, right func()) {
	t.Helper()
	db, err := sql.Open("mysql", server.DSN(mariadb.User, mariadb.Database))
	if err != nil {
		t.Fatal(err)
	}
	var held []*sql.Conn
	for {
		c, err := db.Conn(t.Context())
		if err != nil {
			break
		}
		held = append(held, c)
	}
	try(t, d.open(t), e, job.Unavailable, "max_connections")
	for _, c := range held {
		_ = c.Close()
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	right()
}

func TestAMariaDBThatHangsOrIsKilledHoldsACallForSecondsOnlyAndIsFilledWhenItIsBack(t *testing.T) {
	server, d := broken(t)
	h := d.open(t)
	record(t, h, entry("job-1", 1))
	if err := server.Pause(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := h.Record(ctx, []history.Entry{entry("job-1", 2)})
	if job.KindOf(err) != job.Unavailable || ctx.Err() != nil {
		t.Errorf("after %v: %v", time.Since(begin), err)
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	record(t, h, entry("job-1", 2))
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	try(t, h, entry("job-1", 3), job.Unavailable, "Start the database")
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	record(t, h, entry("job-1", 3))
	if got := d.one(t, "SELECT seq FROM vmferry_jobs"); got != "3" {
		t.Errorf("the row is at %s", got)
	}
}

func TestConnectionsThatAreKilledInTheMiddleOfABatchLoseNothing(t *testing.T) {
	d := newMariaDB(t)
	h := d.open(t)
	admin := d.connect(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	const mostKills = 10
	kills := 0
	wg.Go(func() {
		for kills < mostKills {
			select {
			case <-stop:
				return
			default:
			}
			var id int64
			err := admin.QueryRowContext(t.Context(), "SELECT id FROM information_schema.processlist WHERE "+
				"user = 'vmferry' AND db = DATABASE() AND info LIKE '%vmferry_jobs%' LIMIT 1").Scan(&id)
			if err != nil {
				continue
			}
			if _, err := admin.ExecContext(t.Context(), fmt.Sprintf("KILL %d", id)); err == nil {
				kills++
			}
		}
	})
	failed := 0
	for seq := int64(1); seq <= 30; seq++ {
		var batch []history.Entry
		for i := range 50 {
			batch = append(batch, entry(job.ID(fmt.Sprintf("job-%02d", i)), seq*100+int64(i)))
		}
		for h.Record(t.Context(), batch) != nil {
			failed++
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d connections were killed, %d calls failed", kills, failed)
	got := d.one(t, "SELECT COUNT(*), MIN(seq DIV 100) = MAX(seq DIV 100) FROM vmferry_jobs")
	rows := d.one(t, "SELECT COUNT(*) FROM replication_jobs")
	if got != "50 1" || rows != "50" {
		t.Errorf("the rows are %q, and %s jobs", got, rows)
	}
}

func TestATransactionThatADeadlockEndsIsRunAgain(t *testing.T) {
	d := newMariaDB(t)
	h := d.open(t)
	record(t, h, entry("job-1", 1), entry("job-2", 1))
	var wg sync.WaitGroup
	stop := make(chan struct{})
	admin := d.connect(t)
	for range 2 {
		wg.Go(func() { // another program that takes the rows in the other order
			for {
				select {
				case <-stop:
					return
				default:
				}
				tx, err := admin.BeginTx(t.Context(), nil)
				if err != nil {
					continue
				}
				for _, id := range []string{"job-2", "job-1"} {
					_, _ = tx.ExecContext(t.Context(), "UPDATE replication_jobs SET datacenter = '' WHERE id = ?", id)
				}
				_ = tx.Commit()
			}
		})
	}
	for seq := int64(2); seq < 60; seq++ {
		for {
			err := h.Record(t.Context(), []history.Entry{entry("job-1", seq), entry("job-2", seq)})
			if err == nil {
				break
			}
			if job.KindOf(err) != job.Unavailable {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	wg.Wait()
	if got := d.read(t, "SELECT seq FROM vmferry_jobs"); fmt.Sprint(got) != "[59 59]" {
		t.Errorf("the rows are at %v", got)
	}
}

func TestAnSQLiteFileThatIsLockedOrNoneSaysWhatToDo(t *testing.T) {
	d := newSQLite(t)
	h := d.open(t)
	record(t, h, entry("job-1", 1))
	db := d.connect(t)
	c, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"BEGIN IMMEDIATE", "UPDATE vmferry_jobs SET writer = writer"} {
		if _, err := c.ExecContext(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	try(t, h, entry("job-1", 2), job.Unavailable, "End the program that holds a lock")
	if _, err := c.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	record(t, h, entry("job-1", 2))

	other := newSQLite(t)
	if err := os.WriteFile(other.cfg.Path, []byte(strings.Repeat("this is no database\n", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	h = other.open(t)
	try(t, h, entry("job-1", 1), job.Corrupt, "Move")
	if err := os.Rename(other.cfg.Path, other.cfg.Path+".bad"); err != nil {
		t.Fatal(err)
	}
	record(t, h, entry("job-1", 1))
	if r := row(t, h, "job-1"); r.CurrentOperation != "copying" {
		t.Errorf("the row is %+v", r)
	}
}

func TestAPageOf100Of10000RowsReadsAtMost300RowsInTheServer(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 10 000 rows")
	}
	d := newMariaDB(t)
	h := d.open(t)
	record(t, h, entry("job-00000", 1))
	d.exec(t, "INSERT INTO replication_jobs (id, created_at) SELECT CONCAT('job-', LPAD(seq, 5, '0')), "+
		"TIMESTAMPADD(SECOND, seq DIV 7, '2026-05-01') FROM seq_1_to_9999",
		"INSERT INTO vmferry_jobs (id, writer, node, epoch, seq) SELECT CONCAT('job-', LPAD(seq, 5, '0')), 'w', 'n', "+
			"1, 1 FROM seq_1_to_9999")
	// The counters are of the whole server, and another test may read at the same time: they run one after another.
	count := func() (n int64) {
		db := d.connect(t)
		defer db.Close()
		err := db.QueryRowContext(t.Context(), "SELECT SUM(variable_value) FROM information_schema.global_status "+
			"WHERE variable_name LIKE 'Handler_read_%'").Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	newest := time.Date(2026, 5, 1, 0, 10, 0, 0, time.UTC)
	for _, f := range []history.Filter{
		{},
		{Node: "n"},
		{Status: []string{"pending"}},
		{From: newest.Add(-time.Hour), To: newest},
		{Node: "n", To: newest},
	} {
		for i := range 3 {
			idle := count()
			before := count()
			p, err := h.Page(t.Context(), f)
			if err != nil || len(p.Rows) != 100 || p.Rows[0].Node != "n" {
				t.Fatal(len(p.Rows), err)
			}
			if read := count() - before - (before - idle); read > 300 {
				t.Errorf("page %d of %+v reads %d rows", i+1, f, read)
			}
			f.Cursor = p.Next
		}
	}
}
