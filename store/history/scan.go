package history

import (
	"database/sql"
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/vmferry/vmferry/job"
)

// scan reads a row into fields. Both databases, and columns of other types than ours, give one value in several forms,
// so each is read as text. NULL leaves a field as it is.
func scan(rows *sql.Rows, fields []field) error {
	values := make([]any, len(fields))
	into := make([]any, len(fields))
	for i := range values {
		into[i] = &values[i]
	}
	if err := rows.Scan(into...); err != nil {
		return err
	}
	for i, f := range fields {
		if values[i] == nil {
			continue
		}
		set(f.to, values[i])
	}
	return nil
}

// set stores a value in a field. What is no number or time leaves the field as it is: it is another program's.
func set(to, v any) {
	text := textOf(v)
	switch to := to.(type) {
	case *string:
		*to = text
	case *rawText:
		*to = rawText(text)
	case **string:
		*to = &text
	case *job.ID:
		*to = job.ID(text)
	case *job.Status:
		*to = job.Status(text)
	case *int64:
		if n, ok := wholeOf(text); ok {
			*to = n
		}
	case **int64:
		if n, ok := wholeOf(text); ok {
			*to = &n
		}
	case *float64:
		if f, ok := numberOf(text); ok {
			*to = f
		}
	case **float64:
		if f, ok := numberOf(text); ok {
			*to = &f
		}
	case **time.Time:
		if t, ok := timeOf(text); ok {
			*to = &t
		}
	}
}

func textOf(v any) string {
	switch v := v.(type) {
	case []byte:
		return string(v)
	case string:
		return v
	case time.Time:
		return v.UTC().Format(timeForm)
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return fmt.Sprint(v)
}

func wholeOf(s string) (int64, bool) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, true
	}
	f, ok := numberOf(s)
	if !ok || math.Abs(f) >= math.MaxInt64 {
		return 0, false
	}
	return int64(f), true
}

// numberOf reads a number that JSON has, too: neither infinite nor NaN.
func numberOf(s string) (float64, bool) {
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil && !math.IsInf(f, 0) && !math.IsNaN(f)
}

func timeOf(s string) (time.Time, bool) {
	for _, form := range []string{"2006-01-02 15:04:05", time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(form, s); err == nil { // a form without a fraction takes one
			return t.UTC(), true
		}
	}
	return time.Time{}, false
}
