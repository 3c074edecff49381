package job

import (
	"encoding/json"
	"errors"
	"io"
	"strconv"
)

const (
	extentsFileMost = 256 << 20 // bytes of a list in JSON: about six million extents
	extentsEnd      = 1 << 62   // no extent ends beyond this byte
	extentsForm     = `[{"offset":0,"length":65536},...]`
)

// ReadExtents reads one list like [{"offset":0,"length":65536}] and nothing else. It needs memory for the result only,
// not for the text. The extents may be in any order and overlap; the result is normal, names the same bytes, and is
// never nil without an error. Errors are of kind Invalid and name the extent; an error of r is of kind IO.
func ReadExtents(r io.Reader) (Extents, error) {
	const op = "read extents"
	limited := &io.LimitedReader{R: r, N: extentsFileMost + 1}
	x, err := readExtents(json.NewDecoder(&spaceFilter{r: limited}))
	var known *Error
	var syntax *json.SyntaxError
	switch {
	case limited.N <= 0:
		return nil, Errorf(op, Invalid, "Merge extents that lie close together, or leave the list out",
			"the list is larger than %s", FormatSize(extentsFileMost))
	case err == nil:
		return x, nil
	case errors.As(err, &known):
		return nil, err
	case errors.As(err, &syntax), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, Errorf(op, Invalid, "", "it must hold one list like %s: %w", extentsForm, err)
	default:
		return nil, &Error{Op: op, Kind: IO, Err: err}
	}
}

// spaceFilter passes on only the first of several spaces: a decoder would keep all of them, and scan them again with
// each read. Inside strings it does the same, which is harmless: no known field name holds spaces.
type spaceFilter struct {
	r     io.Reader
	space bool // the last character was a space
}

func (s *spaceFilter) Read(b []byte) (int, error) {
	for {
		n, err := s.r.Read(b)
		kept := b[:0]
		for _, c := range b[:n] {
			space := c == ' ' || c == '\n' || c == '\t' || c == '\r'
			if !space || !s.space {
				kept = append(kept, c)
			}
			s.space = space
		}
		if len(kept) > 0 || n == 0 || err != nil {
			return len(kept), err
		}
	}
}

func readExtents(d *json.Decoder) (Extents, error) {
	d.UseNumber()
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, firstError(err, Errorf("read extents", Invalid, "", "it must hold one list like %s", extentsForm))
	}
	x, normal := Extents{}, true
	for n := 0; d.More(); n++ {
		e, err := readExtent(d, n)
		if err != nil {
			return nil, err
		}
		last := len(x) - 1
		if last >= 0 && e.Offset <= x[last].End() && e.Offset >= x[last].Offset {
			x[last].Length = max(x[last].Length, e.End()-x[last].Offset)
			continue
		}
		normal = normal && (last < 0 || e.Offset > x[last].Offset)
		x = append(x, e)
	}
	if _, err := d.Token(); err != nil { // the end of the list
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, firstError(err, Errorf("read extents", Invalid, "", "there is more after the list"))
	}
	if !normal {
		x = x.Merge(0)
	}
	return x, nil
}

// readExtent reads the n-th extent of a list.
func readExtent(d *json.Decoder, n int) (Extent, error) {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return Extent{}, firstError(err, badExtent(n, `it is not an object like {"offset":0,"length":65536}`))
	}
	e := Extent{Offset: -1, Length: -1}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return Extent{}, err
		}
		value, err := d.Token()
		if err != nil {
			return Extent{}, err
		}
		if err := e.set(n, name, value); err != nil {
			return Extent{}, err
		}
	}
	if _, err := d.Token(); err != nil { // the end of the object
		return Extent{}, err
	}
	switch {
	case e.Offset < 0 || e.Length < 0:
		return Extent{}, badExtent(n, "it lacks its offset or its length")
	case e.Length == 0:
		return Extent{}, badExtent(n, "its length is 0")
	case e.Offset > extentsEnd || e.Length > extentsEnd-e.Offset:
		return Extent{}, badExtent(n, "%v ends beyond byte %d", e, int64(extentsEnd))
	}
	return e, nil
}

// set takes one field of the n-th extent. A field that is not set yet is negative.
func (e *Extent) set(n int, name, value json.Token) error {
	var field *int64
	switch name {
	case "offset":
		field = &e.Offset
	case "length":
		field = &e.Length
	default:
		return badExtent(n, "it has a field %.40q; there are only offset and length", name)
	}
	number, isNumber := value.(json.Number)
	if !isNumber {
		return badExtent(n, "its %v is not a number", name)
	}
	if *field >= 0 {
		return badExtent(n, "it has %v twice", name)
	}
	bytes, err := strconv.ParseInt(number.String(), 10, 64)
	if err != nil || bytes < 0 {
		return badExtent(n, "its %v is %.40s, which is not a whole number of bytes", name, number)
	}
	*field = bytes
	return nil
}

func badExtent(n int, format string, args ...any) error {
	return Errorf("read extents", Invalid, "", "extent %d: "+format, append([]any{n}, args...)...)
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
