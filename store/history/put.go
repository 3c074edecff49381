package history

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// value is what a column gets: nil, a string, an int64, a float64 or a time.Time.
type value struct {
	column string
	v      any
}

// same compares a key letter for letter, whatever the collation of its column. The first half uses the index. It takes
// the key twice.
func same(column string) string { return column + " = ? AND HEX(" + column + ") = HEX(?)" }

// put writes the columns that the table has, to the row of that key or to a new one. What does not fit is cut or left
// out, and told once. A table without one of the key columns is left alone.
func (t *tx) put(ctx context.Context, name string, key, values []value) error {
	tb := t.s.tables[name]
	where, whereArgs, ok := t.where(tb, key)
	if !ok {
		return nil
	}
	columns, args := t.fitting(tb, values)
	if len(columns) > 0 {
		set := strings.Join(columns, " = ?, ") + " = ?"
		n, err := t.exec(ctx, "UPDATE "+name+" SET "+set+" WHERE "+where, append(slices.Clip(args), whereArgs...)...)
		if err != nil || n > 0 {
			return err
		}
	}
	return t.insert(ctx, tb, columns, args, key)
}

// where is the condition for a key, and its arguments.
func (t *tx) where(tb *table, key []value) (string, []any, bool) {
	var where []string
	var args []any
	for _, k := range key {
		c, ok := tb.columns[k.column]
		var v any
		var why string
		if ok {
			v, why, ok = c.fit(k.v)
		} else {
			why = "the table has no such column"
		}
		if !ok || why != "" { // a key that was cut is another key
			t.tell(tb.name, k.column, "rows are left out: "+why)
			return "", nil, false
		}
		if _, text := v.(string); text {
			where, args = append(where, same(k.column)), append(args, v, v)
		} else {
			where, args = append(where, k.column+" = ?"), append(args, v)
		}
	}
	return strings.Join(where, " AND "), args, true
}

// fitting are the columns that exist, and what they get.
func (t *tx) fitting(tb *table, values []value) (columns []string, args []any) {
	for _, v := range values {
		c, ok := tb.columns[v.column]
		if !ok {
			if len(tb.columns) > 0 {
				t.tell(tb.name, v.column, "the table has no such column")
			}
			continue
		}
		if c.readOnly {
			continue
		}
		fit, why, ok := c.fit(v.v)
		if why != "" {
			t.tell(tb.name, v.column, why)
		}
		if !ok || fit == nil && c.must {
			continue
		}
		columns, args = append(columns, v.column), append(args, fit)
	}
	return columns, args
}

// insert makes a row. Columns of others that need a value get a zero one.
func (t *tx) insert(ctx context.Context, tb *table, columns []string, args []any, key []value) error {
	given := map[string]bool{}
	for _, c := range columns {
		given[c] = true
	}
	for _, k := range key {
		if !given[k.column] {
			fit, _, _ := tb.columns[k.column].fit(k.v)
			given[k.column] = true
			columns, args = append(columns, k.column), append(args, fit)
		}
	}
	for name, c := range tb.columns {
		if c.must && !given[name] {
			columns, args = append(columns, name), append(args, c.zero())
		}
	}
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(columns)), ", ")
	_, err := t.exec(ctx, "INSERT INTO "+tb.name+" ("+strings.Join(columns, ", ")+") VALUES ("+marks+")", args...)
	if duplicate(err) {
		return job.Errorf("record history", job.Conflict, "Give each job an id that differs in more than case, or "+
			"rename the row", "table %s has another row with a key that its collation takes for the same: %w", tb.name,
			err)
	}
	return err
}

// tell logs once what a table cannot hold.
func (t *tx) tell(table, column, why string) {
	if t.told.first(table + "." + column + " " + why) {
		t.log.Warn("a column of the history does not hold all of what it should", "table", table, "column", column,
			"reason", why, "next", "Widen or add the column, or set sql.alter: true for missing ones")
	}
}

// putChanged is put for rows that seldom change: it does nothing if the session wrote the same before.
func (t *tx) putChanged(ctx context.Context, name string, key, values []value) error {
	k, text := fmt.Sprint(name, key), fmt.Sprint(values)
	if t.s.rows[k] == text {
		return nil
	}
	t.rows[k] = text
	return t.put(ctx, name, key, values)
}

// sqlTime is a time as it is bound; nil for the zero time.
func sqlTime(at time.Time) any {
	if at.IsZero() {
		return nil
	}
	return at.UTC().Format(timeForm)
}

// clip cuts a text to that many characters.
func clip(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	if r := []rune(s); len(r) > most {
		return string(r[:most])
	}
	return s
}
