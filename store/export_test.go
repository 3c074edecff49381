package store

import (
	"context"
	"os"
)

// RingSize is the number of reports that can be resumed over.
const RingSize = ringSize

// LimitGrowth makes the journal's disk full: the file may not grow any more.
func (j *Journal) LimitGrowth(ctx context.Context) error {
	var pages, limit int64
	if err := j.write.QueryRowContext(ctx, "PRAGMA page_count").Scan(&pages); err != nil {
		return err
	}
	return j.write.QueryRowContext(ctx, "PRAGMA max_page_count = 1").Scan(&limit)
}

// Pragma reads a setting of the connection that writes.
func (j *Journal) Pragma(ctx context.Context, name string) (value string, err error) {
	err = j.write.QueryRowContext(ctx, "PRAGMA "+name).Scan(&value)
	return value, err
}

// Exec runs a statement that no method would.
func (j *Journal) Exec(ctx context.Context, statement string) error {
	_, err := j.write.ExecContext(ctx, statement)
	return err
}

// Inspect is what OpenJournal does before it changes anything.
func Inspect(ctx context.Context, path string) error {
	if _, err := inspect(ctx, "inspect", path); err != nil {
		return failure(ctx, "inspect", err)
	}
	return nil
}

// Columns returns the columns of each table with sealed rows, the seal included.
func Columns() map[string][]string {
	out := map[string][]string{}
	for _, t := range append(believed(), reportsTable) {
		out[t.name] = append(append([]string{}, t.cols...), "seal")
	}
	return out
}

// WithSync replaces the fsync of files and folders.
func WithSync(sync func(*os.File) error) Option { return func(j *Journal) { j.sync = sync } }
