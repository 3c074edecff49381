package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/vmferry/vmferry/job"
)

// Versions of the tables.
const (
	sealsVersion  = 3 // the first with seals, the ledger of volumes and a mark
	tokensVersion = 4
	leasesVersion = 5
	tablesVersion = leasesVersion // of the newest migration
)

// inspect reads the whole journal once, so that damage is found at the start and not in the middle of a job. It changes
// nothing, also not by writing a log back that may be a wrong one. It returns the version of the tables.
func inspect(ctx context.Context, op, path string) (version int64, err error) {
	if err := noLostFile(op, path); err != nil {
		return version, err
	}
	mode := readOnly(path)
	if _, err := os.Stat(path + "-journal"); err == nil {
		mode = "?mode=rw" // a first start that was cut short; only a writer may take it back
	} else if !errors.Is(err, fs.ErrNotExist) {
		return version, err
	}
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String()+mode)
	if err != nil {
		return version, err
	}
	defer func() {
		if errors.Is(err, errSeal) {
			err = job.Errorf(op, job.Corrupt, nextCorrupt, "%w", err)
		}
		err = errors.Join(err, db.Close())
	}()
	db.SetMaxOpenConns(1)
	var answer string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check(1)").Scan(&answer); err != nil {
		return version, err
	}
	if answer != "ok" {
		return version, job.Errorf(op, job.Corrupt, nextCorrupt, "%s", answer)
	}
	if version, err = versionOf(ctx, op, filepath.Dir(path), db); err != nil {
		return version, err
	}
	mark, err := readMark(op, filepath.Dir(path))
	if err != nil {
		return version, err
	}
	if version < sealsVersion { // it never had a mark
		return version, checkMark(op, marked{}, mark)
	}
	if err := checkSchema(ctx, op, db); err != nil {
		return version, err
	}
	for _, t := range believed() {
		if t.since > version {
			continue
		}
		if err := t.check(ctx, db); err != nil {
			return version, err
		}
	}
	have, err := readMarked(ctx, db)
	if err != nil {
		return version, err
	}
	return version, checkMark(op, have, mark)
}

// readOnly is how a journal is opened so that no file is made beside it: one without a log needs no index of it.
func readOnly(path string) string {
	if info, err := os.Stat(path + "-wal"); errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() == 0 {
		return "?mode=ro&immutable=1"
	}
	return "?mode=ro"
}

// noLostFile refuses a log without its database: SQLite would remove it.
func noLostFile(op, path string) error {
	info, err := os.Stat(path)
	if err != nil || info.Size() > 0 {
		return err
	}
	wal, err := os.Stat(path + "-wal")
	if errors.Is(err, fs.ErrNotExist) || err == nil && wal.Size() == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	return job.Errorf(op, job.Corrupt, nextCorrupt, "the file is empty, but it has a write-ahead log of %d bytes: "+
		"the database was removed or emptied", wal.Size())
}

// versionOf returns the version of the tables; 0 if there are none.
func versionOf(ctx context.Context, op, dir string, db *sql.DB) (version int64, err error) {
	var tables, ledger int64
	err = db.QueryRowContext(ctx, `SELECT count(*) FILTER (WHERE name = 'goose_db_version'),
		count(*) FILTER (WHERE name = 'volumes') FROM sqlite_schema WHERE type = 'table'`).Scan(&tables, &ledger)
	if err != nil {
		return 0, err
	}
	if tables > 0 {
		err = db.QueryRowContext(ctx, "SELECT coalesce(max(version_id), 0) FROM goose_db_version").Scan(&version)
		if err != nil {
			return 0, err
		}
	}
	switch {
	case version > tablesVersion:
		return 0, newer(op, dir, version)
	case (ledger > 0) != (version >= sealsVersion):
		return 0, job.Errorf(op, job.Corrupt, nextCorrupt, "its tables are not those of version %d", version)
	}
	return version, nil
}

// checkSchema compares the definitions of the tables with what they were after the last migration: a rule that an index
// holds is worth as much as its definition.
func checkSchema(ctx context.Context, op string, db *sql.DB) error {
	now, err := schemaDigest(ctx, db)
	if err != nil {
		return err
	}
	var was string
	if _, err := setting(ctx, db, settingSchema, &was); err != nil {
		return err
	}
	if was != now {
		return job.Errorf(op, job.Corrupt, nextCorrupt, "the definitions of its tables are not as they were made")
	}
	return nil
}

type querier interface {
	rowQuerier
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

func schemaDigest(ctx context.Context, q querier) (string, error) {
	h := sha256.New()
	err := each(ctx, q, "SELECT type, name, tbl_name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name",
		func(rows *sql.Rows) error {
			var parts [4]string
			if err := rows.Scan(&parts[0], &parts[1], &parts[2], &parts[3]); err != nil {
				return err
			}
			for _, p := range parts {
				addPart(h, 't', []byte(p))
			}
			return nil
		})
	return hex.EncodeToString(h.Sum(nil)[:sealSize]), err
}

// check reads all rows.
func (t table) check(ctx context.Context, q querier) error {
	return each(ctx, q, t.query, func(rows *sql.Rows) error { return t.scan(rows) })
}
