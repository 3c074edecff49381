package history

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// column is a column as it is now.
type column struct {
	name     string
	word     string   // of its type, in lower case: varchar, bigint, decimal, enum
	width    int      // characters, or digits of a decimal; 0 for none
	scale    int      // digits after the point
	words    []string // of an enum or set
	charset  string
	unsigned bool
	auto     bool // counts by itself
	readOnly bool // generated
	must     bool // a new row needs a value
}

// timeForm is how times are bound: in UTC, with six digits. Both databases keep it, and as text it sorts by time.
const timeForm = "2006-01-02 15:04:05.000000"

// fit returns the value as the column can hold it. ok is false if the column cannot hold it; why then says why, and
// also where it was changed. v is nil, a string, an int64, a float64 or a time.Time.
func (c column) fit(v any) (fitting any, why string, ok bool) {
	switch v := v.(type) {
	case nil:
		return nil, "", true
	case string:
		return c.fitText(v)
	case int64:
		return c.fitNumber(float64(v), strconv.FormatInt(v, 10), v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, "the number is not finite", false
		}
		digits := 2
		if c.word == "decimal" || c.word == "numeric" {
			digits = c.scale
		}
		text := strconv.FormatFloat(v, 'f', digits, 64)
		return c.fitNumber(v, text, text)
	case time.Time:
		return c.fitTime(v)
	}
	return nil, fmt.Sprintf("a %T has no form in SQL", v), false
}

// textBytes are the widths of texts in bytes.
func (c column) textBytes() int {
	switch c.word {
	case "tinytext", "tinyblob":
		return 255
	case "text", "blob":
		return 65535
	case "char", "varchar", "nvarchar", "binary", "varbinary", "clob",
		"mediumtext", "longtext", "mediumblob", "longblob":
		return math.MaxInt32
	}
	return 0
}

func (c column) fitText(s string) (any, string, bool) {
	if c.word == "enum" || c.word == "set" {
		i := slices.IndexFunc(c.words, func(w string) bool { return strings.EqualFold(w, s) })
		if i < 0 {
			return nil, fmt.Sprintf("%q is none of its words", s), false
		}
		return c.words[i], "", true
	}
	most := c.textBytes()
	if most == 0 {
		return nil, "it is no text", false
	}
	why := ""
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		s = strings.ReplaceAll(strings.ToValidUTF8(s, "?"), "\x00", "?")
	}
	if last := c.lastRune(); last > 0 {
		t := strings.Map(func(r rune) rune {
			if r > last {
				return '?'
			}
			return r
		}, s)
		if t != s {
			s, why = t, "its character set lacks some characters"
		}
	}
	if c.width > 0 && utf8.RuneCountInString(s) > c.width {
		s, why = string([]rune(s)[:c.width]), "it is too narrow, the text was cut"
	}
	if len(s) > most {
		s, why = strings.ToValidUTF8(s[:most], ""), "it is too narrow, the text was cut"
	}
	return s, why, true
}

// lastRune is the highest character that the column can hold; 0 for any.
func (c column) lastRune() rune {
	switch c.charset {
	case "utf8mb4", "", "binary", "utf16", "utf32":
		return 0
	case "utf8", "utf8mb3", "ucs2":
		return 0xffff
	case "latin1":
		return 0xff
	default:
		return 0x7f
	}
}

// limits of whole numbers, by the word of the type.
func (c column) limits() (low, high float64, ok bool) {
	bits := map[string]float64{
		"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "integer": 32, "bigint": 64,
	}[c.word]
	if bits == 0 {
		return 0, 0, false
	}
	if c.unsigned {
		return 0, math.Exp2(bits), true
	}
	return -math.Exp2(bits - 1), math.Exp2(bits - 1), true
}

func (c column) fitNumber(n float64, text string, v any) (any, string, bool) {
	if low, high, ok := c.limits(); ok {
		if n < low || n >= high && !(c.word == "bigint" && n <= high) {
			return nil, "it is too narrow for the number", false
		}
		if _, whole := v.(int64); !whole {
			return int64(math.Floor(n)), "", true
		}
		return v, "", true
	}
	switch c.word {
	case "decimal", "numeric":
		if c.width > 0 && math.Abs(n) >= math.Pow10(c.width-c.scale) {
			return nil, "it is too narrow for the number", false
		}
		return v, "", true
	case "float", "double", "real":
		return v, "", true
	}
	if c.textBytes() > 0 {
		if c.width > 0 && len(text) > c.width {
			return nil, "it is too narrow for the number", false
		}
		return text, "", true
	}
	return nil, "it is no number", false
}

func (c column) fitTime(t time.Time) (any, string, bool) {
	t = t.UTC()
	if t.IsZero() {
		return nil, "", true
	}
	switch c.word {
	case "datetime", "date":
		if t.Year() < 1000 || t.Year() > 9999 {
			return nil, "the time is out of range", false
		}
		return t.Format(timeForm), "", true
	case "timestamp":
		if t.Unix() < 1 || t.Unix() > math.MaxInt32 {
			return nil, "the time is out of range", false
		}
		return t.Format(timeForm), "", true
	}
	if c.textBytes() > 0 && (c.width == 0 || c.width >= len(timeForm)) {
		return t.Format(timeForm), "", true
	}
	return nil, "it is no time", false
}

// latest is a time that no row exceeds.
func (c column) latest() string {
	if c.word == "timestamp" {
		return "2038-01-19 03:14:07.000000"
	}
	return "9999-12-31 00:00:00.000000"
}

// zero is the value for a new row in a column that needs one, of which vmferry knows nothing.
func (c column) zero() any {
	if _, _, whole := c.limits(); whole {
		return int64(0)
	}
	switch c.word {
	case "decimal", "numeric", "float", "double", "real", "bit", "year":
		return int64(0)
	case "datetime", "date", "timestamp":
		return "1970-01-02 00:00:00"
	case "time":
		return "00:00:00"
	case "json":
		return "{}"
	case "enum", "set":
		if len(c.words) > 0 {
			return c.words[0]
		}
	}
	return ""
}
