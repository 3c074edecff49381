package store

import (
	"context"
	"errors"
	"syscall"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/vmferry/vmferry/job"
)

const (
	nextNoSpace = "Free some space on the file system of the state directory; nothing that was acknowledged is lost"
	nextCorrupt = "Stop vmferry and keep a copy of the state directory for analysis. Restore journal.db from a " +
		"backup, without journal.db-wal, journal.db-shm and journal.mark, or start with an empty state directory"
	nextOther = "Look at the file system and the permissions of the state directory, then try again"
)

// failure gives an error of SQLite or the file system its kind. An error that has a kind already is returned as it is.
func failure(ctx context.Context, op string, err error) error {
	if _, ok := errors.AsType[*job.Error](err); ok {
		return err
	}
	if cause := ctx.Err(); cause != nil {
		return &job.Error{Op: op, Kind: job.KindOf(cause), Err: errors.Join(cause, err)}
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return fileFailure(op, err)
	}
	switch e.Code() & 0xff { // the low byte is the class, the rest the detail
	case sqlite3.SQLITE_FULL:
		return &job.Error{Op: op, Kind: job.NoSpace, Next: nextNoSpace, Err: err}
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR: // the last: a table or column is missing
		return &job.Error{Op: op, Kind: job.Corrupt, Next: nextCorrupt, Err: err}
	default:
		return &job.Error{Op: op, Kind: job.Unavailable, Next: nextOther, Peer: job.PeerJournal, Err: err}
	}
}

// fileFailure asks the table of errnos whether room or a right is missing. All else may go away, and is waited for.
func fileFailure(op string, err error) error {
	var kind job.Kind
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		kind, _ = job.KindOfErrno(errno)
	}
	switch kind {
	case job.NoSpace:
		return &job.Error{Op: op, Kind: kind, Next: nextNoSpace, Err: err}
	case job.Permission:
		return &job.Error{
			Op: op, Kind: kind, Next: "Give the user that vmferry runs as the right to write there", Err: err,
		}
	default:
		return &job.Error{Op: op, Kind: job.Unavailable, Next: nextOther, Peer: job.PeerJournal, Err: err}
	}
}

// damaged is the error for a journal that can be read but whose content is wrong.
func damaged(err error) error {
	return &job.Error{Op: "read journal", Kind: job.Corrupt, Next: nextCorrupt, Err: err}
}
