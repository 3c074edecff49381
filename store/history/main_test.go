package history_test

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
	"go.uber.org/goleak"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
	"github.com/vmferry/vmferry/store/history"
	"github.com/vmferry/vmferry/store/history/mariadb"
)

const writerID = "daemon-1"

// one is the MariaDB that the tests share, each with a database of its own.
var one struct {
	once   sync.Once
	server *mariadb.Server
	err    error
	number atomic.Int64
}

func TestMain(m *testing.M) {
	code := m.Run()
	if one.server != nil {
		_ = one.server.Kill()
		_ = os.RemoveAll(filepath.Dir(one.server.Socket()))
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// database is an empty database of one kind.
type database struct {
	cfg history.Config
	dsn string // for a connection of the test's own
	log *logged
}

// logged is what was logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// inEach runs a test in both databases.
func inEach(t *testing.T, test func(t *testing.T, d *database)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, newSQLite(t)) })
	t.Run("mariadb", func(t *testing.T) { test(t, newMariaDB(t)) })
}

func newSQLite(t *testing.T) *database {
	t.Helper()
	path := filepath.Join(t.TempDir(), "history.db")
	d := &database{dsn: "file:" + path + "?_pragma=busy_timeout(5000)", log: &logged{}}
	d.cfg = history.Config{Driver: history.SQLite, Path: path, Writer: writerID, Log: d.logger()}
	return d
}

func newMariaDB(t *testing.T) *database {
	t.Helper()
	server := shared(t)
	name := fmt.Sprintf("t_%d", one.number.Add(1))
	d := &database{log: &logged{}, cfg: history.Config{Driver: history.MariaDB}}
	d.dsn = server.DSN(mariadb.Admin, "")
	d.exec(t, "CREATE DATABASE "+name, "GRANT ALL ON "+name+".* TO "+mariadb.User+"@localhost")
	d.dsn = server.DSN(mariadb.Admin, name)
	path := filepath.Join(t.TempDir(), "dsn")
	if err := os.WriteFile(path, []byte(server.DSN(mariadb.User, name)), 0o600); err != nil {
		t.Fatal(err)
	}
	d.cfg = history.Config{Driver: history.MariaDB, DSNFile: path, Writer: writerID, Log: d.logger()}
	return d
}

func (d *database) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(io.MultiWriter(d.log), nil))
}

// shared is the server that all tests use, unless they break it.
func shared(t *testing.T) *mariadb.Server {
	t.Helper()
	needMariaDB(t)
	one.once.Do(func() {
		var dir string
		if dir, one.err = serverDir(); one.err != nil {
			return
		}
		if one.server, one.err = mariadb.New(context.Background(), dir, "--max-connections=400"); one.err == nil {
			one.err = one.server.Start(context.Background())
		}
	})
	if one.err != nil {
		t.Fatal(one.err)
	}
	return one.server
}

// serverDir is a folder that the server's user can reach, with a short path: it holds a socket.
func serverDir() (string, error) {
	dir, err := os.MkdirTemp("", "vmferry-mariadb-")
	if err == nil {
		err = os.Chmod(dir, 0o711)
	}
	return dir, err
}

func needMariaDB(t *testing.T) {
	t.Helper()
	if _, err := mariadb.Find(); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		t.Skip("needs mariadb-server-core")
	}
}

// connect is a connection of the test's own.
func (d *database) connect(t *testing.T) *sql.DB {
	t.Helper()
	driver := "sqlite"
	if d.cfg.Driver == history.MariaDB {
		driver = "mysql"
		cfg, err := mysql.ParseDSN(d.dsn)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Logger = &mysql.NopLogger{}
		d.dsn = cfg.FormatDSN()
	}
	db, err := sql.Open(driver, d.dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func (d *database) exec(t *testing.T, statements ...string) {
	t.Helper()
	db := d.connect(t)
	defer db.Close()
	for _, s := range statements {
		if _, err := db.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

// read returns the rows of a query, each as its values with a space between.
func (d *database) read(t *testing.T, query string) []string {
	t.Helper()
	db := d.connect(t)
	defer db.Close()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for rows.Next() {
		values, into := make([]any, len(columns)), make([]any, len(columns))
		for i := range into {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, v := range values {
			switch v := v.(type) {
			case nil:
				words = append(words, "NULL")
			case []byte:
				words = append(words, string(v))
			case time.Time:
				words = append(words, v.Format("2006-01-02 15:04:05.000000"))
			default:
				words = append(words, fmt.Sprint(v))
			}
		}
		all = append(all, strings.Join(words, " "))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func (d *database) one(t *testing.T, query string) string {
	t.Helper()
	all := d.read(t, query)
	if len(all) != 1 {
		t.Fatalf("%s: %d rows", query, len(all))
	}
	return all[0]
}

func (d *database) open(t *testing.T) *history.DB {
	t.Helper()
	h, err := history.Open(d.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

func record(t *testing.T, h *history.DB, entries ...history.Entry) {
	t.Helper()
	if err := h.Record(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
}

func row(t *testing.T, h *history.DB, id job.ID) history.Row {
	t.Helper()
	r, err := h.Row(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var began = time.Date(2026, 3, 4, 5, 6, 7, 89000, time.UTC)

// entry is a running job with one disk of 64 MiB, half copied.
func entry(id job.ID, seq int64, more ...func(*history.Entry)) history.Entry {
	half, total, speed := 50.0, int64(64<<20), 2.5*(1<<20)
	started := began.Add(time.Second)
	e := history.Entry{Node: "vma-1", Report: report.Report{
		JobID: id, Epoch: 1000, Seq: seq, ObservedAt: began.Add(time.Minute), Origin: report.Own,
		VM:   report.VM{Name: "web", Path: "/DC0/vm/web", Ref: "vm-29", UUID: "5029-UUID"},
		Mode: job.Full, Status: job.Running, Phase: job.Transfer, Operation: "copying", Round: 1,
		OverallPercent: 48.219, Percent: &half, BytesCapacity: &total, BytesToTransfer: &total,
		BytesTransferred: 32 << 20, BytesSkipped: 1 << 20, BytesPerSecond: &speed,
		CreatedAt: began, StartedAt: &started,
		Rounds: []report.Round{{
			Round: 1, Mode: job.Full, BytesToTransfer: total, BytesTransferred: 32 << 20, BytesSkipped: 1 << 20,
			StartedAt: started,
		}},
		Disks: []report.Disk{{
			DiskID: "disk-2000", Label: "Hard disk 1", File: "[ds1] web/web.vmdk", Target: "/targets/web.raw",
			Mode: job.Full, Status: job.DiskRunning, Percent: &half, BytesCapacity: total, BytesToTransfer: &total,
			BytesTransferred: 32 << 20, ChangeID: "52 de/7",
		}},
	}}
	for _, m := range more {
		m(&e)
	}
	return e
}
