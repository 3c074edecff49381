package http

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

const (
	maxBody      = 1 << 20         // bytes; the largest useful job has 256 targets of some hundred bytes
	maxDepth     = 32              // of nested objects and arrays
	maxElements  = 1024            // of one array
	bodyDeadline = 5 * time.Second // until the whole body must have arrived
)

// readBody reads a whole body within limits of size and time. A compressed one is refused: its size is not known.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if coding := r.Header.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		p := rest.NewProblem(rest.CodeContentType, fmt.Sprintf("the body is encoded as %q", rest.Clip(coding)),
			"Send it as it is, without Content-Encoding")
		p.Header = http.Header{"Accept-Encoding": {"identity"}}
		return nil, p
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyDeadline)) // not every connection can do it; the server's limits remain
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var large *http.MaxBytesError
	var slow net.Error
	switch {
	case err == nil:
		_ = rc.SetReadDeadline(time.Time{})
		return b, nil
	case errors.As(err, &large):
		return nil, rest.NewProblem(rest.CodeBodyTooLarge, fmt.Sprintf("the body is larger than %d bytes", maxBody),
			"Send less")
	case errors.As(err, &slow) && slow.Timeout():
		return nil, rest.NewProblem(rest.CodeBodyTimeout,
			fmt.Sprintf("the body was not complete after %s", bodyDeadline), "Send it again")
	default:
		return nil, rest.NewProblem(rest.CodeBodySyntax, "the body could not be read: "+err.Error(), "Send it again")
	}
}

// strictQuery refuses a query that can't be read. Go's parser leaves out the parts that it can't read, so a filter
// would be missing.
func strictQuery(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			writeProblem(w, r, rest.NewProblem(rest.CodeParameterInvalid, "the query can't be read: "+
				rest.Clip(err.Error()), "Encode % as %25, ; as %3B and & as %26 in values"))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// strictBody lets only bodies through that hold one JSON value which a schema can check: UTF-8, no name twice, no null,
// not nested too deep.
func strictBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body == nil || r.Body == http.NoBody {
			next.ServeHTTP(w, r)
			return
		}
		b, err := readBody(w, r)
		if err == nil && len(b) > 0 {
			err = checkBody(r.Header.Get("Content-Type"), b)
		}
		if err != nil {
			writeProblem(w, r, problemOf(err))
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(b))
		next.ServeHTTP(w, r)
	})
}

func checkBody(contentType string, b []byte) error {
	if !isJSON(contentType) {
		detail := "the body has no type"
		if contentType != "" {
			detail = fmt.Sprintf("the body is of type %q", rest.Clip(contentType))
		}
		return rest.NewProblem(rest.CodeContentType, detail, "Send JSON with Content-Type: application/json")
	}
	if !utf8.Valid(b) {
		return rest.NewProblem(rest.CodeBodySyntax, "the body is not UTF-8", "")
	}
	s, err := checkJSON(b)
	if err == nil && halfPair(b) {
		err = errors.New("a text has half of a surrogate pair, which is no character")
	}
	if err != nil {
		return rest.NewProblem(rest.CodeBodySyntax, err.Error(), "Send one JSON object")
	}
	if len(s.nulls) > 0 {
		p := rest.NewProblem(string(job.Invalid), "the body has null where a value must be",
			"Leave out what you don't want to set")
		for _, at := range s.nulls {
			p = p.At(at, "must not be null")
		}
		return p
	}
	return nil
}

// halfPair says whether a text in valid JSON has an escape such as \ud800 without its other half. Go reads it as
// U+FFFD: two names would become one.
func halfPair(b []byte) bool {
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return false
		}
		if b[i+1] != 'u' {
			b = b[i+2:]
			continue
		}
		high := escaped(b[i:])
		b = b[i+6:]
		if !utf16.IsSurrogate(high) {
			continue
		}
		if len(b) < 6 || utf16.DecodeRune(high, escaped(b)) == utf8.RuneError {
			return true
		}
		b = b[6:]
	}
}

// escaped is the character of an escape at the beginning of b, as in \u00fc; 0 if there is none.
func escaped(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0
	}
	n, err := strconv.ParseUint(string(b[2:6]), 16, 16)
	if err != nil {
		return 0
	}
	return rune(n)
}

// isJSON says whether a body of that type can be read.
func isJSON(contentType string) bool {
	t, params, err := mime.ParseMediaType(contentType)
	if err != nil || t != "application/json" {
		return false
	}
	set := params["charset"]
	return set == "" || strings.EqualFold(set, "utf-8")
}

// checkJSON walks through one JSON value. The error says that the text is not one JSON value, has a name twice in one
// object or is nested too deep.
func checkJSON(b []byte) (scan, error) {
	s := scan{d: json.NewDecoder(bytes.NewReader(b))}
	s.d.UseNumber()
	if err := s.value("body", 0); err != nil {
		return s, err
	}
	if _, err := s.d.Token(); !errors.Is(err, io.EOF) {
		return s, errors.New("something follows the JSON value")
	}
	return s, nil
}

// scan walks through a JSON value.
type scan struct {
	d     *json.Decoder
	nulls []string // the places of nulls
}

const maxNulls = 20 // of nulls that are listed in one answer

func (s *scan) value(at string, depth int) error {
	t, err := s.d.Token()
	if err != nil {
		return syntaxError(err)
	}
	switch t {
	case nil:
		if len(s.nulls) < maxNulls {
			s.nulls = append(s.nulls, at)
		}
	case json.Delim('{'):
		return s.inside(depth, func() error { return s.object(at, depth+1) })
	case json.Delim('['):
		return s.inside(depth, func() error { return s.array(at, depth+1) })
	}
	return nil
}

func (s *scan) inside(depth int, read func() error) error {
	if depth >= maxDepth {
		return fmt.Errorf("the JSON value is nested deeper than %d", maxDepth)
	}
	if err := read(); err != nil {
		return err
	}
	if _, err := s.d.Token(); err != nil { // the closing bracket
		return syntaxError(err)
	}
	return nil
}

func (s *scan) object(at string, depth int) error {
	seen := map[string]bool{}
	for s.d.More() {
		t, err := s.d.Token()
		if err != nil {
			return syntaxError(err)
		}
		name, ok := t.(string)
		if !ok || seen[name] {
			return fmt.Errorf("%s has %q twice", at, rest.Clip(name))
		}
		seen[name] = true
		if err := s.value(at+"."+rest.Clip(name), depth); err != nil {
			return err
		}
	}
	return nil
}

func (s *scan) array(at string, depth int) error {
	for i := 0; s.d.More(); i++ {
		if i >= maxElements {
			return fmt.Errorf("%s has more than %d elements", at, maxElements)
		}
		if err := s.value(fmt.Sprintf("%s[%d]", at, i), depth); err != nil {
			return err
		}
	}
	return nil
}

func syntaxError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON value ends too early")
	}
	return fmt.Errorf("the body is not JSON: %w", err)
}
