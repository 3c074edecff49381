package http

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"github.com/vmferry/vmferry/http/rest"
)

// postedUpdate is rest.ProgressUpdate as older tools write it: their whole numbers may have the form of a float, as in
// 5.0 or 1.5e12.
type postedUpdate struct {
	Stage            string   `json:"stage"`
	Status           string   `json:"status"`
	BytesTransferred *whole   `json:"bytes_transferred"`
	TotalBytes       *whole   `json:"total_bytes"`
	ThroughputBPS    *float64 `json:"throughput_bps"`
	Percent          *float64 `json:"percent"`
	DiskID           string   `json:"disk_id"`
	SyncType         string   `json:"sync_type"`
	ErrorMessage     string   `json:"error_message"`
}

// whole is a whole number in any form that JSON has for it.
type whole int64

// UnmarshalJSON reads a number. A fraction, and a number beyond int64, is an error; nothing is rounded.
func (n *whole) UnmarshalJSON(text []byte) error {
	s := string(text)
	fault := &json.UnmarshalTypeError{Value: "number " + rest.Clip(s), Type: reflect.TypeFor[int64]()}
	switch s[0] {
	case '"':
		fault.Value = "string"
		return fault
	case '{':
		fault.Value = "object"
		return fault
	case '[':
		fault.Value = "array"
		return fault
	case 't', 'f':
		fault.Value = "bool"
		return fault
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		digits, fraction := wholeDigits(s)
		if fraction {
			fault.Value = "the fraction " + rest.Clip(s)
			return fault
		}
		if v, err = strconv.ParseInt(digits, 10, 64); err != nil {
			return fault
		}
	}
	*n = whole(v)
	return nil
}

// wholeDigits writes a JSON number without point and exponent. fraction says that it is not whole. A number that is far
// too large for an int64 stays as it is.
func wholeDigits(s string) (digits string, fraction bool) {
	const most = 19 // digits of an int64
	unsigned, minus := strings.CutPrefix(s, "-")
	mantissa, exponent, _ := strings.Cut(strings.ToLower(unsigned), "e")
	before, after, _ := strings.Cut(mantissa, ".")
	all := strings.TrimLeft(before+after, "0")
	kept := strings.TrimRight(all, "0")
	if kept == "" {
		return "0", false
	}
	shift, err := 0, error(nil)
	if exponent != "" {
		shift, err = strconv.Atoi(exponent)
	}
	if err != nil { // beyond any int
		return s, strings.HasPrefix(exponent, "-")
	}
	zeros := shift - len(after) + len(all) - len(kept)
	switch {
	case zeros < 0:
		return "", true
	case zeros > most:
		return s, false
	case minus:
		kept = "-" + kept
	}
	return kept + strings.Repeat("0", zeros), false
}

// count is the number for a report.Update; nil stays nil.
func (n *whole) count() *int64 {
	if n == nil {
		return nil
	}
	v := int64(*n)
	return &v
}
