package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/pressly/goose/v3"
	_ "modernc.org/sqlite" // the database/sql driver "sqlite"

	"github.com/vmferry/vmferry/job"
)

// A migration ends with sealSchema, so all new ones are Go functions: see goMigrations.
//
//go:embed migrations/*.sql
var migrations embed.FS

const (
	journalFile = "journal.db"
	lockFile    = "lock"
	readers     = 2 // connections that only read, so that a list for the API never delays a write
)

// Names of counters, as stored.
const (
	counterEpoch  = "epoch"
	counterLeases = "lease_epochs" // epochs of leases: all that were used are at most this
)

// Journal is the truth about jobs and checkpoint sets, in an SQLite file. A write survives kill -9 and power loss once
// its method has returned without error. Methods may be called by many goroutines at once; writes run one after
// another. Errors are *job.Error: NoSpace, Corrupt, Permission, Unavailable, Conflict, NotFound, Invalid, or Cancelled
// and Timeout of ctx. After an error other than Conflict, NotFound or Invalid the write may or may not be in the file:
// all writes can be repeated.
type Journal struct {
	write *sql.DB // one connection: SQLite allows one writer, and a queue in Go is fair
	read  *sql.DB
	lock  *os.File
	log   *slog.Logger
	mark  mark
	dir   string

	leaseEpochs leaseEpochs

	sync func(*os.File) error // makes a file, or the names in a folder, durable
}

// Option changes how OpenJournal works.
type Option func(*Journal)

// WithLog takes a log for what a person should know and what is no error. Without it, that is lost.
func WithLog(log *slog.Logger) Option { return func(j *Journal) { j.log = log } }

// OpenJournal opens the journal in the state directory dir, makes both if they do not exist, and brings its tables up
// to date, after it has kept a copy of the journal as it was. A state directory belongs to one process at a time: a
// second process gets Conflict with the first one's pid. A journal that is damaged, that has lost writes, or that a
// newer program wrote fails with Corrupt; its files are not changed then.
func OpenJournal(ctx context.Context, dir string, options ...Option) (j *Journal, err error) {
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, failure(ctx, "open journal", err)
	}
	path := filepath.Join(dir, journalFile)
	op := "open journal " + path
	j = &Journal{log: slog.New(slog.DiscardHandler), sync: (*os.File).Sync}
	for _, o := range options {
		o(j)
	}
	if err := j.makeDir(dir); err != nil {
		return nil, failure(ctx, op, err)
	}
	if j.lock, err = lockDir(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(failure(ctx, op, err), j.Close())
			j = nil
		}
	}()
	if err := j.makeFile(path); err != nil {
		return j, err
	}
	version, err := inspect(ctx, op, path)
	if err != nil {
		return j, err
	}
	return j, j.open(ctx, dir, version)
}

// open opens the files for good, after inspect has found that they may be changed, with tables of that version.
func (j *Journal) open(ctx context.Context, dir string, version int64) (err error) {
	path := filepath.Join(dir, journalFile)
	j.dir = dir
	if j.write, err = sql.Open("sqlite", dsn(path, "&_pragma=journal_mode(WAL)&_txlock=immediate")); err != nil {
		return err
	}
	j.write.SetMaxOpenConns(1)
	if err := j.keepCopy(ctx, dir, version, time.Now()); err != nil {
		return err
	}
	if err := j.migrate(ctx); err != nil {
		return err
	}
	first, err := j.openMark(ctx, dir)
	if err != nil {
		return err
	}
	if err := j.dropReports(ctx); err != nil {
		return err
	}
	if first { // from here on the file itself says which journal it is and that it has a mark, also without its log
		if _, err := j.write.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
			return err
		}
	}
	if j.read, err = sql.Open("sqlite", dsn(path, "&_pragma=journal_mode(WAL)&_query_only=1")); err != nil {
		return err
	}
	j.read.SetMaxOpenConns(readers)
	return nil
}

// Close ends all use of the state directory. No other method may be running or be called later.
func (j *Journal) Close() error {
	var errs []error
	for _, db := range []*sql.DB{j.read, j.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	errs = append(errs, j.mark.close())
	if j.lock != nil { // last: no other process may open the files before they are closed
		errs = append(errs, unlock(j.lock))
		j.lock = nil
	}
	if err := errors.Join(errs...); err != nil {
		return job.Errorf("close journal", job.Unavailable, "", "%w", err)
	}
	return nil
}

// dsn is the data source name of the file. It sets synchronous=FULL: with NORMAL a WAL loses acknowledged commits at
// power loss.
func dsn(path, more string) string {
	const pragmas = "?_pragma=busy_timeout(5000)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)" +
		"&_pragma=journal_size_limit(16777216)"
	return (&url.URL{Scheme: "file", Path: path}).String() + pragmas + more
}

func (j *Journal) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, j.write, files, goose.WithDisableGlobalRegistry(true),
		goose.WithGoMigrations(goMigrations()...))
	if err != nil {
		return err
	}
	_, err = provider.Up(ctx)
	return err
}

// tx runs f in one durable transaction.
func (j *Journal) tx(ctx context.Context, op string, f func(tx *sql.Tx) error) error {
	tx, err := j.write.BeginTx(ctx, nil)
	if err != nil {
		return failure(ctx, op, err)
	}
	err = f(tx)
	var number int64
	if err == nil {
		number, err = j.mark.begin(ctx, tx)
	}
	if err != nil {
		// The error of a failed rollback is dropped: the connection is closed then, and SQLite rolls back by itself.
		_ = tx.Rollback()
		return failure(ctx, op, err)
	}
	if err := tx.Commit(); err != nil {
		return failure(ctx, op, err)
	}
	if err := j.mark.end(number); err != nil {
		return failure(ctx, op, err)
	}
	return nil
}

// NextEpoch returns an epoch greater than all that it has returned before: now in ms since 1970, or the last epoch plus
// one if the clock went back. The epoch is durable before it is returned.
func (j *Journal) NextEpoch(ctx context.Context, now time.Time) (int64, error) {
	var epoch int64
	err := j.tx(ctx, "make epoch", func(tx *sql.Tx) error {
		var last int64
		if _, err := countersTable.get(ctx, tx, "WHERE name = ?", []any{counterEpoch}, nil, &last); err != nil {
			return err
		}
		epoch = max(last+1, now.UnixMilli())
		return countersTable.put(ctx, tx, counterEpoch, epoch)
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// makeDir makes dir and the folders above it that are missing, all of them durable.
func (j *Journal) makeDir(dir string) error {
	_, err := os.Stat(dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(dir)
	if err := j.makeDir(above); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return j.syncDir(above)
}

// makeFile makes an empty file, which is a valid empty database, with mode 0600. SQLite gives its WAL the same mode.
// Its name is made durable also if the file is there: the one who made it may have been killed before that.
func (j *Journal) makeFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = f.Close()
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return j.syncDir(filepath.Dir(path))
}

// syncDir makes the names in dir durable.
func (j *Journal) syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := j.sync(d); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
