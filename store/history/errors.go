package history

import (
	"context"
	"database/sql/driver"
	"errors"
	"io/fs"
	"net"
	"syscall"

	"github.com/go-sql-driver/mysql"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/vmferry/vmferry/job"
)

const nextWait = "Nothing needs to be done if it comes back: jobs go on, and the history is brought up to date then"

// Numbers of MariaDB's errors.
const (
	erDup          = 1062
	erLockWait     = 1205
	erDeadlock     = 1213
	erNoTable      = 1146
	erNoColumn     = 1054
	erNoDatabase   = 1049
	erDiskFull     = 1021
	erTableFull    = 1114
	erWriteFile    = 3
	erErrorOnWrite = 1026
)

// wrap gives an error of a database its kind. An error that has a kind already is returned as it is.
func (h *DB) wrap(ctx context.Context, op string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*job.Error](err); ok {
		return err
	}
	if cause := ctx.Err(); cause != nil {
		return &job.Error{Op: op, Kind: job.KindOf(cause), Next: nextWait, Err: errors.Join(cause, err)}
	}
	kind, next := h.judge(err)
	return &job.Error{Op: op, Kind: kind, Next: next, Err: err}
}

func (h *DB) judge(err error) (job.Kind, string) {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return judgeMariaDB(e.Number)
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return h.judgeSQLite(e.Code())
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok && h.dsn == nil {
		if kind, _ := job.KindOfErrno(errno); kind != "" {
			return kind, "Look at the file system and the permissions of " + h.cfg.Path
		}
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, driver.ErrBadConn) ||
		errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, fs.ErrNotExist) {
		return job.Unavailable, "Start the database, or check sql.dsn_file; " + nextWait
	}
	return job.Unavailable, nextWait
}

func judgeMariaDB(number uint16) (job.Kind, string) {
	switch number {
	case 1044, 1045, 1698, 1524: // database, password, plugin
		return job.Auth, "Check user and password in sql.dsn_file"
	case 1142, 1143, 1227, 1370: // of a table, a column, a right, a routine
		return job.Permission, "Grant the user of sql.dsn_file all rights on its database (docs/history.md)"
	case erNoDatabase:
		return job.NotFound, "Create the database that sql.dsn_file names; tables are made by vmferry"
	case erDiskFull, erTableFull, erWriteFile, erErrorOnWrite:
		return job.NoSpace, "Free some space where the database keeps its data"
	case 1290, 1792, 1836: // read-only: an option, a transaction, a mode
		return job.Unavailable, "Make the database writable (SET GLOBAL read_only = 0), or point sql.dsn_file to " +
			"the one that is"
	case 1040, 1203, 1226: // connections: of the server, of a user
		return job.Unavailable, "Raise max_connections of the database, or close what holds them; " + nextWait
	case erNoTable, erNoColumn:
		return job.Unavailable, "Nothing needs to be done: the tables are looked at again, and made if they are missing"
	default:
		return job.Unavailable, nextWait
	}
}

func (h *DB) judgeSQLite(code int) (job.Kind, string) {
	at := h.cfg.Path
	switch code & 0xff { // the low byte is the class, the rest the detail
	case sqlite3.SQLITE_FULL:
		return job.NoSpace, "Free some space on the file system of " + at
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return job.Corrupt, "Move " + at + " away, with its -wal and -shm; a new one is made, and known jobs are " +
			"written to it"
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_CANTOPEN:
		return job.Permission, "Give vmferry's user the right to write " + at + " and its folder"
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return job.Unavailable, "End the program that holds a lock on " + at
	default:
		return job.Unavailable, "Look at the file system and the permissions of " + at
	}
}

// duplicate says whether a row with that key was there.
func duplicate(err error) bool {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return e.Number == erDup
	}
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() == sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE
	}
	return false
}

// again says whether the same transaction may succeed if it is run once more at once.
func again(err error) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && e.Number == erDeadlock
}

// refused says whether the database refuses this row, and may take others: a value or a rule of the schema is at fault.
func refused(err error) bool {
	if job.KindOf(err) == job.Conflict {
		return true
	}
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		switch e.Number {
		case erDup, 1048, 1263, 1264, 1265, 1292, 1364, 1366, 1406, 1451, 1452, 1644, 4025:
			return true // key, NULL, range, enum, time, no default, characters, width, foreign keys, trigger, CHECK
		}
		return false
	}
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == sqlite3.SQLITE_CONSTRAINT
}
