package history

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// The tables.
const (
	jobsTable     = "replication_jobs"
	disksTable    = "vm_disks"
	mappingsTable = "device_mappings"
	cbtTable      = "cbt_history"
	marksTable    = "vmferry_jobs"
	holdersTable  = "vmferry_disks"
	versionTable  = "vmferry_schema" // of goose; the older chain may have one with the usual name
)

func allTables() []string {
	return []string{jobsTable, disksTable, mappingsTable, cbtTable, marksTable, holdersTable}
}

// createdIndex is what pages are read by. MariaDB gets it with the table.
const createdIndex = "CREATE INDEX replication_jobs_created ON replication_jobs (created_at, id)"

// marksWithoutRow removes what is known of rows that are gone.
const marksWithoutRow = "DELETE FROM vmferry_jobs WHERE NOT EXISTS " +
	"(SELECT 1 FROM replication_jobs j WHERE j.id = vmferry_jobs.id)"

// table is a table as it is now.
type table struct {
	name    string
	columns map[string]column // by name, in lower case
}

func (t *table) has(name string) bool { _, ok := t.columns[name]; return ok }

// migrate brings our tables up to date. Tables that are there already stay as they are. A break between two statements
// does no harm: all are repeated.
func (h *DB) migrate(ctx context.Context, db *sql.DB) error {
	old, err := h.columns(ctx, db, jobsTable)
	if err != nil {
		return err
	}
	if err := h.up(ctx, db); err != nil {
		return err
	}
	if len(old) == 0 && h.dsn == nil {
		if _, err := db.ExecContext(ctx, createdIndex); err != nil {
			return err
		}
	}
	if len(old) == 0 { // no row is what was written last, unless another process has written it since
		if _, err := db.ExecContext(ctx, marksWithoutRow); err != nil {
			return err
		}
	}
	if h.cfg.Alter {
		return h.alter(ctx, db)
	}
	return nil
}

// up runs the migrations, and runs them all again if a table was removed since.
func (h *DB) up(ctx context.Context, db *sql.DB) error {
	for range 2 {
		dialect := goose.DialectMySQL
		if h.dsn == nil {
			dialect = goose.DialectSQLite3
		}
		p, err := goose.NewProvider(dialect, db, h.files(), goose.WithDisableGlobalRegistry(true),
			goose.WithTableName(versionTable), goose.WithLogger(goose.NopLogger()))
		if err != nil {
			return err
		}
		if _, err := p.Up(ctx); err != nil {
			return err
		}
		tables, err := h.inspect(ctx, db)
		if err != nil || complete(tables) {
			return err
		}
		if _, err := db.ExecContext(ctx, "DROP TABLE "+versionTable); err != nil {
			return err
		}
	}
	return nil
}

// complete says whether there are all tables.
func complete(tables map[string]*table) bool {
	for _, t := range tables {
		if len(t.columns) == 0 {
			return false
		}
	}
	return true
}

func (h *DB) files() fs.FS {
	if h.cfg.files != nil {
		return h.cfg.files
	}
	sub, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return migrations // never: the folder is embedded
	}
	return sub
}

// ours finds the lines of a migration that begin a table or tell of a column: name and type.
var ours = regexp.MustCompile(
	`(?m)^(?:CREATE TABLE IF NOT EXISTS (\w+) \(|    ([a-z_]+) +([A-Z]+(?:\(\d+(?:,\d+)?\))?(?:/\*!\(6\)\*/)?))`)

// alter adds the columns and the index that the tables of the older chain lack. Each column can be NULL, and nothing
// else is changed.
func (h *DB) alter(ctx context.Context, db *sql.DB) error {
	text, err := fs.ReadFile(migrations, "migrations/00001_oma.sql")
	if err != nil {
		return err
	}
	up, _, _ := strings.Cut(string(text), "-- +goose Down")
	var name string
	var there map[string]column
	for _, m := range ours.FindAllStringSubmatch(up, -1) {
		if m[1] != "" {
			name = m[1]
			if there, err = h.columns(ctx, db, name); err != nil {
				return err
			}
			continue
		}
		if _, ok := there[m[2]]; ok {
			continue
		}
		add := "ALTER TABLE " + name + " ADD COLUMN " + m[2] + " " + m[3] //nolint:gosec // words of our own migration
		if _, err := db.ExecContext(ctx, add); err != nil {
			return err
		}
		h.log.Info("a table of the history has got a column", "table", name, "column", m[2])
	}
	return h.addIndex(ctx, db)
}

func (h *DB) addIndex(ctx context.Context, db *sql.DB) error {
	query := "SELECT COUNT(*) FROM information_schema.statistics WHERE table_schema = DATABASE() AND " +
		"table_name = '" + jobsTable + "' AND column_name = 'created_at' AND seq_in_index = 1"
	if h.dsn == nil {
		query = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'index' AND name = 'replication_jobs_created'"
	}
	var n int
	if err := db.QueryRowContext(ctx, query).Scan(&n); err != nil || n > 0 {
		return err
	}
	_, err := db.ExecContext(ctx, createdIndex)
	return err
}

// inspect reads which columns the tables have.
func (h *DB) inspect(ctx context.Context, db *sql.DB) (map[string]*table, error) {
	tables := map[string]*table{}
	for _, name := range allTables() {
		columns, err := h.columns(ctx, db, name)
		if err != nil {
			return nil, err
		}
		tables[name] = &table{name, columns}
	}
	return tables, nil
}

// columns are those of one table; none if there is no such table.
func (h *DB) columns(ctx context.Context, db *sql.DB, name string) (_ map[string]column, err error) {
	query := "SELECT column_name, column_type, is_nullable = 'NO', column_default IS NOT NULL, extra, " +
		"COALESCE(character_set_name, '') FROM information_schema.columns " +
		"WHERE table_schema = DATABASE() AND table_name = ?"
	if h.dsn == nil {
		query = "SELECT name, type, \"notnull\", dflt_value IS NOT NULL, '', 'utf8mb4' FROM pragma_table_info(?)"
	}
	rows, err := db.QueryContext(ctx, query, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns := map[string]column{}
	for rows.Next() {
		var name, kind, extra, charset string
		var must, standard bool
		if err := rows.Scan(&name, &kind, &must, &standard, &extra, &charset); err != nil {
			return nil, err
		}
		c := newColumn(strings.ToLower(name), strings.ToLower(kind), charset)
		extra = strings.ToLower(extra)
		c.auto = strings.Contains(extra, "auto_increment")
		c.readOnly = strings.Contains(extra, "generated") || strings.Contains(extra, "virtual")
		c.must = must && !standard && !c.auto && !c.readOnly
		columns[c.name] = c
	}
	return columns, rows.Err()
}

// typeWords takes a type apart: its word, and what stands in brackets.
var typeWords = regexp.MustCompile(`^\s*([a-z]+)\s*(?:\((.*)\))?`)

func newColumn(name, kind, charset string) column {
	c := column{name: name, charset: charset, unsigned: strings.Contains(kind, "unsigned")}
	m := typeWords.FindStringSubmatch(kind)
	if m == nil {
		return c
	}
	c.word = m[1]
	if c.word == "enum" || c.word == "set" {
		for w := range strings.SplitSeq(m[2], ",") {
			c.words = append(c.words, strings.ReplaceAll(strings.Trim(w, "'"), "''", "'"))
		}
		return c
	}
	first, second, _ := strings.Cut(m[2], ",")
	c.width, _ = strconv.Atoi(strings.TrimSpace(first)) // 0 where there is none
	c.scale, _ = strconv.Atoi(strings.TrimSpace(second))
	return c
}

func (c column) String() string { return fmt.Sprintf("%s %s(%d,%d)", c.name, c.word, c.width, c.scale) }
