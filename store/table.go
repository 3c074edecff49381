package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/job"
)

// sealSize is the length of a seal in bytes. It is long enough against chance; a seal is no defence against people.
const sealSize = 16

var errSeal = errors.New("the row is not as it was written: it does not fit its checksum")

// table is a table with sealed rows: its last column, seal, is a digest of the table's name and of all other columns.
// SQLite checks the form of the file, and nothing would notice a changed letter in a row. So a row is written only by
// put and insert, as a whole, and believed only after scan: what changes one column reads the row first.
type table struct {
	name  string
	what  string   // one row, for people
	keys  int      // so many of the first columns are the primary key
	cols  []string // all columns but seal
	query string   // reads all columns; a WHERE clause may follow
	add   string   // adds a row
	over  string   // follows add, to replace the row of the same key
	since int64    // version of the tables that had it first, with seals; 0 for those that got their seals later
}

func newTable(name, what string, keys int, cols ...string) table {
	all := strings.Join(cols, ", ") + ", seal"
	var set []string
	for _, c := range append(slices.Clone(cols[keys:]), "seal") {
		set = append(set, c+" = excluded."+c)
	}
	return table{
		name: name, what: what, keys: keys, cols: cols,
		query: "SELECT " + all + " FROM " + name + " ",
		add:   "INSERT INTO " + name + " (" + all + ") VALUES (?" + strings.Repeat(", ?", len(cols)) + ")",
		over: " ON CONFLICT (" + strings.Join(cols[:keys], ", ") + ") DO UPDATE SET " +
			strings.Join(set, ", "),
	}
}

//nolint:gochecknoglobals // constant tables; Go has no constant structs
var (
	jobsTable     = newTable("jobs", "job", 1, "id", "vm", "vm_uuid", "active", "seq", "created_at", "state")
	eventsTable   = newTable("events", "event of job", 2, "job", "seq", "at", "body")
	setsTable     = newTable("sets", "checkpoint set of VM", 1, "vm_uuid", "generation", "dropped", "body")
	settingsTable = newTable("settings", "setting", 1, "name", "body")
	countersTable = newTable("counters", "counter", 1, "name", "value")
	keysTable     = newTable("request_keys", "idempotency key", 1, "name", "body_hash", "job", "at")
	volumesTable  = newTable("volumes", "volume", 1, "id", "job", "vm", "disk", "target", "body").from(sealsVersion)
	reportsTable  = newTable("reports", "report of job", 1, "job", "epoch", "seq", "ended", "body")
	tokensTable   = newTable("tokens", "token", 1, "id", "body").from(tokensVersion)
	leasesTable   = newTable("leases", "lease of volume", 1, "volume", "epoch", "body").from(leasesVersion)
)

// believed lists the tables of which each row must be right. Reports can be made again, so they are not among them.
func believed() []table {
	return []table{
		jobsTable, eventsTable, setsTable, settingsTable, countersTable, keysTable, volumesTable, tokensTable,
		leasesTable,
	}
}

// from is the table with the version of the tables that had it first.
func (t table) from(version int64) table {
	t.since = version
	return t
}

// insert adds a row; values are all columns but seal.
func (t table) insert(ctx context.Context, tx *sql.Tx, values ...any) error {
	return t.write(ctx, tx, t.add, values)
}

// put adds a row, or replaces that of the same key.
func (t table) put(ctx context.Context, tx *sql.Tx, values ...any) error {
	return t.write(ctx, tx, t.add+t.over, values)
}

func (t table) write(ctx context.Context, tx *sql.Tx, statement string, values []any) error {
	row, err := t.sealed(values)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, statement, row...)
	return err
}

// sealed returns the values as they are stored, and their seal after them.
func (t table) sealed(values []any) ([]any, error) {
	if len(values) != len(t.cols) {
		return nil, fmt.Errorf("%d values for the %d columns of %s", len(values), len(t.cols), t.name)
	}
	row := make([]any, 0, len(values)+1)
	for _, v := range values {
		v, err := driver.DefaultParameterConverter.ConvertValue(v)
		if err != nil {
			return nil, err
		}
		if b, ok := v.(bool); ok {
			v = int64(0)
			if b {
				v = int64(1)
			}
		}
		row = append(row, v)
	}
	return append(row, t.seal(row)), nil
}

// seal is the digest of a row: the table's name, then type, length and content of each value.
func (t table) seal(row []any) []byte {
	h := sha256.New()
	addPart(h, 'n', []byte(t.name))
	for _, v := range row {
		switch v := v.(type) {
		case int64:
			addPart(h, 'i', binary.BigEndian.AppendUint64(nil, uint64(v)))
		case string:
			addPart(h, 't', []byte(v))
		case []byte:
			addPart(h, 'b', v)
		default: // NULL and REAL, which no column can hold
			addPart(h, 'x', fmt.Append(nil, v))
		}
	}
	return h.Sum(nil)[:sealSize]
}

func addPart(h hash.Hash, kind byte, b []byte) {
	h.Write(binary.BigEndian.AppendUint64([]byte{kind}, uint64(len(b)))) // a digest's Write never fails
	h.Write(b)
}

// scanner is a row of a query.
type scanner interface{ Scan(dest ...any) error }

// scan reads a row of t.query, checks its seal, and stores the columns: in a *string, *job.ID, *int64, *bool or *[]byte
// each; nil leaves one out.
func (t table) scan(row scanner, into ...any) error {
	return t.scanMore(row, nil, into...)
}

// scanMore is scan for a query with more columns after the seal.
func (t table) scanMore(row scanner, more []any, into ...any) error {
	values, dest := make([]any, len(t.cols)), make([]any, 0, len(t.cols)+1+len(more))
	for i := range values {
		dest = append(dest, &values[i])
	}
	var seal []byte
	if err := row.Scan(append(append(dest, &seal), more...)...); err != nil {
		return err
	}
	if !bytes.Equal(t.seal(values), seal) {
		return t.damaged(values)
	}
	for i, to := range into {
		if err := store(values[i], to); err != nil {
			return fmt.Errorf("column %s of table %s: %w", t.cols[i], t.name, err)
		}
	}
	return nil
}

func store(v, to any) error {
	switch v := v.(type) {
	case int64:
		switch to := to.(type) {
		case *int64:
			*to = v
			return nil
		case *bool:
			*to = v != 0
			return nil
		}
	case string:
		switch to := to.(type) {
		case *string:
			*to = v
			return nil
		case *job.ID:
			*to = job.ID(v)
			return nil
		case *[]byte:
			*to = []byte(v)
			return nil
		}
	case []byte:
		if to, ok := to.(*[]byte); ok {
			*to = v
			return nil
		}
	}
	if to == nil {
		return nil
	}
	return fmt.Errorf("%T cannot hold %T", to, v)
}

// damaged is the error for a row that is not as it was written.
func (t table) damaged(row []any) error {
	var key []string
	for _, v := range row[:t.keys] {
		key = append(key, fmt.Sprintf("%.100q", fmt.Sprint(v)))
	}
	return damaged(fmt.Errorf("table %s, %s %s: %w", t.name, t.what, strings.Join(key, ", "), errSeal))
}

// get reads the one row of t that the WHERE clause selects.
func (t table) get(ctx context.Context, q rowQuerier, where string, args []any, into ...any) (found bool, err error) {
	err = t.scan(q.QueryRowContext(ctx, t.query+where, args...), into...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}
