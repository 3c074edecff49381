package history

import (
	"context"
	"database/sql"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	_ "modernc.org/sqlite" // the database/sql driver "sqlite"

	"github.com/vmferry/vmferry/job"
)

// The drivers.
const (
	SQLite  = "sqlite"
	MariaDB = "mariadb"
)

const (
	maxDSN       = 4 << 10         // bytes of a DSN file
	dialTime     = time.Second     // to connect to MariaDB
	answerTime   = 3 * time.Second // until MariaDB answers one statement
	lockTime     = "2"             // seconds that a statement waits for a lock of others, of a row or a table
	writers      = 2               // connections to MariaDB that write
	readers      = 2               // connections that read: pages that take long do not hold the writer up
	idleTime     = 5 * time.Minute // after which a connection that is not used is closed
	nextDSN      = "Write user:password@tcp(host:3306)/database or user@unix(/path/of.sock)/database into that file"
	sqlMode      = "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"
	sqlCollation = "utf8mb4_bin"
)

// Config says which database, and who writes.
type Config struct {
	Driver  string       // SQLite or MariaDB
	Path    string       // of the SQLite file, absolute; its folder exists
	DSNFile string       // of MariaDB: a file that not every user can read
	Alter   bool         // tables of the older chain may get the columns and the index that they lack
	Writer  string       // id of this daemon, 1 to 64 characters; rows of another one are left alone
	Log     *slog.Logger // nil: none

	files fs.FS // of migrations; nil for ours
}

// DB is the history in one database. Methods may be called by many goroutines at once; writes run one after another.
// Errors are *job.Error: Unavailable (dead, slow, locked, read-only, too many connections), Auth, Permission, NoSpace,
// NotFound (no such database), Corrupt (an SQLite file), Conflict (rows that the tables refuse), Invalid, or Cancelled
// and Timeout of ctx.
type DB struct {
	cfg     Config
	log     *slog.Logger
	dsn     *mysql.Config // of MariaDB, else nil
	writing chan struct{} // holds one token while a call writes
	session *sessions
	told    *told
}

// Open checks the configuration. It does not touch the database: that may be down, and the first call opens it. Errors
// are of kind Invalid.
func Open(cfg Config) (*DB, error) {
	const op = "open history"
	h := &DB{cfg: cfg, log: cfg.Log, writing: make(chan struct{}, 1), told: &told{}}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if n := len(cfg.Writer); n < 1 || n > maxNode {
		return nil, job.Errorf(op, job.Invalid, "", "the writer's id has %d characters", n)
	}
	switch cfg.Driver {
	case SQLite:
		if !filepath.IsAbs(cfg.Path) {
			return nil, job.Errorf(op, job.Invalid, "Give an absolute path", "%q is not an absolute path", cfg.Path)
		}
	case MariaDB:
		dsn, err := readDSN(cfg.DSNFile)
		if err != nil {
			return nil, err
		}
		h.dsn = dsn
	default:
		return nil, job.Errorf(op, job.Invalid, "Use sqlite or mariadb", "sql.driver %q is not known", cfg.Driver)
	}
	h.session = &sessions{h: h, opening: make(chan struct{}, 1)}
	return h, nil
}

// Close ends all connections. No other method may be running or be called later.
func (h *DB) Close() error { return h.session.close() }

// Name says in one word where the history is kept: sqlite or mariadb.
func (h *DB) Name() string { return h.cfg.Driver }

// readDSN reads the file and sets what our statements need, whatever the file says. Its text is a secret: no error
// quotes it.
func readDSN(path string) (*mysql.Config, error) {
	const op = "read sql.dsn_file"
	f, err := os.Open(path)
	if err != nil {
		return nil, job.Errorf(op, job.Invalid, nextDSN, "%w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, job.Errorf(op, job.Invalid, nextDSN, "%w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o007 != 0 {
		return nil, job.Errorf(op, job.Invalid, "Make it a file that only vmferry's user can read (chmod 600)",
			"%s is open to every user or not a regular file (mode %v)", path, info.Mode())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxDSN))
	if err != nil {
		return nil, job.Errorf(op, job.Invalid, nextDSN, "%w", err)
	}
	dsn, err := mysql.ParseDSN(strings.TrimSpace(string(text)))
	if err != nil || dsn.DBName == "" {
		return nil, job.Errorf(op, job.Invalid, nextDSN, "%s does not hold the address of a database", path)
	}
	dsn.Logger = &mysql.NopLogger{}
	dsn.Timeout, dsn.ReadTimeout, dsn.WriteTimeout = dialTime, answerTime, answerTime
	dsn.ClientFoundRows = true   // a row that is equal already was found
	dsn.InterpolateParams = true // one way there and back for each statement
	dsn.Collation = sqlCollation // else job-A and JOB-a are equal
	dsn.Loc, dsn.ParseTime = time.UTC, false
	dsn.AllowAllFiles, dsn.MultiStatements, dsn.AllowCleartextPasswords = false, false, false
	if dsn.Params == nil {
		dsn.Params = map[string]string{}
	}
	dsn.Params["time_zone"] = "'+00:00'"
	dsn.Params["sql_mode"] = sqlMode
	dsn.Params["innodb_lock_wait_timeout"] = lockTime
	dsn.Params["lock_wait_timeout"] = lockTime // else the server waits for a day, also after the connection has ended
	return dsn, nil
}

// connect opens the pools: one that writes and one that reads. They make connections when they need them.
func (h *DB) connect(ctx context.Context) (write, read *sql.DB, err error) {
	if h.dsn != nil {
		connector, err := mysql.NewConnector(h.dsn)
		if err != nil {
			return nil, nil, err
		}
		write, read = sql.OpenDB(connector), sql.OpenDB(connector)
		for db, most := range map[*sql.DB]int{write: writers, read: readers} {
			db.SetMaxOpenConns(most)
			db.SetMaxIdleConns(most)
			db.SetConnMaxIdleTime(idleTime)
		}
		return write, read, nil
	}
	if err := makeFile(h.cfg.Path); err != nil {
		return nil, nil, err
	}
	if write, err = sql.Open("sqlite", sqliteDSN(h.cfg.Path, "&_txlock=immediate")); err != nil {
		return nil, nil, err
	}
	write.SetMaxOpenConns(1)
	if err := write.PingContext(ctx); err != nil { // the writer makes the log, which readers cannot
		_ = write.Close() // the error tells more
		return nil, nil, err
	}
	if read, err = sql.Open("sqlite", sqliteDSN(h.cfg.Path, "&_query_only=1")); err != nil {
		_ = write.Close() // likewise
		return nil, nil, err
	}
	read.SetMaxOpenConns(readers)
	return write, read, nil
}

// sqliteDSN is the name of the file for the driver. A commit is not synced: what a power loss takes is written again.
func sqliteDSN(path, more string) string {
	const pragmas = "?_pragma=busy_timeout(2000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)" +
		"&_pragma=journal_size_limit(16777216)"
	return (&url.URL{Scheme: "file", Path: path}).String() + pragmas + more
}

// makeFile makes an empty file, which is a valid empty database, for vmferry's user only.
func makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}
