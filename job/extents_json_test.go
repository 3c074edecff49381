package job_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
)

func TestExtentsAreReadFromJSON(t *testing.T) {
	for text, want := range map[string]job.Extents{
		`[]`:                            {},
		" \n[ ]\t ":                     {},
		`[{"offset":0,"length":65536}]`: {{Offset: 0, Length: 65536}},
		`[{"length":2,"offset":7}]`:     {{Offset: 7, Length: 2}},
		`[{"offset":0,"length":4611686018427387904}]`: job.Whole(1 << 62),
		`[{"offset":9,"length":1},{"offset":2,"length":3}]`: {
			{Offset: 2, Length: 3}, {Offset: 9, Length: 1},
		},
		`[{"offset":0,"length":4},{"offset":4,"length":4}]`: {{Offset: 0, Length: 8}},
		`[{"offset":0,"length":8},{"offset":2,"length":2}]`: {{Offset: 0, Length: 8}},
		`[{"offset":5,"length":3},{"offset":5,"length":3}]`: {{Offset: 5, Length: 3}},
		`[{"offset":8,"length":8},{"offset":0,"length":9}]`: {{Offset: 0, Length: 16}},
		"[\n {\"offset\": 1, \"length\": 1},\n {\"offset\":3,\"length\":1}\n]": {
			{Offset: 1, Length: 1}, {Offset: 3, Length: 1},
		},
	} {
		got, err := job.ReadExtents(strings.NewReader(text))
		if err != nil || got == nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", text, d)
		}
	}
}

func TestInvalidListsOfExtentsAreRefused(t *testing.T) {
	for text, says := range map[string]string{
		``:                             "one list",
		`null`:                         "one list",
		`{}`:                           "one list",
		`{"offset":0,"length":1}`:      "one list",
		`"[]"`:                         "one list",
		`7`:                            "one list",
		`offset`:                       "one list",
		"\x00\x00":                     "one list",
		`[`:                            "one list",
		`[{"offset":0,"length":1}`:     "one list",
		`[{"offset":0,"length":1},]`:   "one list",
		`[{"offset":0,"length":1}{}]`:  "one list",
		`[{"offset":0,"length":1}] x`:  "one list",
		`[{"offset":0,"length":1}] []`: "more after the list",
		`[null]`:                       "extent 0: it is not an object",
		`[[0,1]]`:                      "extent 0: it is not an object",
		`[{"offset":0,"length":1},3]`:  "extent 1: it is not an object",
		`[{}]`:                         "lacks",
		`[{"offset":0}]`:               "lacks",
		`[{"length":1}]`:               "lacks",
		`[{"start":0,"length":1}]`:     `a field "start"`,
		`[{"Offset":0,"length":1}]`:    `a field "Offset"`,
		`[{"offset":0,"offset":1}]`:    "offset twice",
		`[{"offset":"0","length":1}]`:  "offset is not a number",
		`[{"offset":null,"length":1}]`: "offset is not a number",
		`[{"offset":{},"length":1}]`:   "offset is not a number",
		`[{"offset":0.5,"length":1}]`:  "offset is 0.5",
		`[{"offset":0,"length":1.0}]`:  "length is 1.0",
		`[{"offset":0,"length":1e3}]`:  "length is 1e3",
		`[{"offset":-1,"length":2}]`:   "offset is -1",
		`[{"offset":0,"length":-2}]`:   "length is -2",
		`[{"offset":0,"length":0}]`:    "length is 0",
		`[{"offset":1,"length":` + "4611686018427387904" + `}]`: "ends beyond byte",
		`[{"offset":0,"length":9223372036854775808}]`:           "length is 9223372036854775808",
		`[{"offset":` + strings.Repeat("9", 1000) + `}]`:        "offset is 9999",
	} {
		got, err := job.ReadExtents(strings.NewReader(text))
		if job.KindOf(err) != job.Invalid || got != nil || !strings.Contains(err.Error(), says) ||
			len(err.Error()) > 300 {
			t.Errorf("%.60s: got %v, %v; want an error with %q", text, got, err, says)
		}
	}
}

func TestAReadErrorIsNotAnInvalidList(t *testing.T) {
	broken := errors.New("the disk is broken")
	_, err := job.ReadExtents(io.MultiReader(strings.NewReader(`[{"offset":0,`), readerFunc(func([]byte) (int, error) {
		return 0, broken
	})))
	if !errors.Is(err, broken) || job.KindOf(err) != job.IO {
		t.Errorf("got %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// endless reads as begin, then text again and again.
func endless(begin, text string) io.Reader {
	block := []byte(strings.Repeat(text, 1<<10))
	at := 0
	return io.MultiReader(strings.NewReader(begin), readerFunc(func(b []byte) (int, error) {
		n := copy(b, block[at:])
		at = (at + n) % len(block)
		return n, nil
	}))
}

func TestAListThatIsTooLargeIsRefused(t *testing.T) {
	t.Parallel() // it reads 256 MiB
	_, err := job.ReadExtents(endless("[", "                "))
	if job.KindOf(err) != job.Invalid || !strings.Contains(err.Error(), "larger than 256 MiB") {
		t.Errorf("got %v", err)
	}
}

func TestReadingManyExtentsNeedsLittleMemory(t *testing.T) {
	const n = 100_000
	var at int
	var text []byte
	r := readerFunc(func(b []byte) (int, error) {
		for len(text) < len(b) && at < n {
			text = fmt.Appendf(text, `%s{"offset":%d,"length":65536}`, []string{"[", ","}[min(1, at)], int64(at)<<17)
			if at++; at == n {
				text = append(text, ']')
			}
		}
		if len(text) == 0 {
			return 0, io.EOF
		}
		k := copy(b, text)
		text = text[:copy(text, text[k:])]
		return k, nil
	})
	got, err := job.ReadExtents(r)
	if err != nil || len(got) != n || got.Sum() != n*65536 {
		t.Fatalf("%d extents, %v", len(got), err)
	}
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	if after.HeapAlloc > 32<<20 {
		t.Errorf("%d bytes in use", after.HeapAlloc)
	}
	runtime.KeepAlive(got)
}

func TestExtentsKeepTheirBytesThroughJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var x job.Extents
		for _, e := range anyExtents(t, "x") {
			if e.Length > 0 {
				x = append(x, e)
			}
		}
		text, err := json.Marshal(append(job.Extents{}, x...))
		if err != nil {
			t.Fatal(err)
		}
		got, err := job.ReadExtents(strings.NewReader(string(text)))
		if err != nil {
			t.Fatal(err)
		}
		mustBeNormal(t, got)
		if mapOf(got) != mapOf(x) {
			t.Fatalf("%s came back as %v", text, got)
		}
	})
}

func FuzzReadExtents(f *testing.F) {
	for _, seed := range []string{
		`[]`, `[{"offset":0,"length":65536}]`, `[{"offset":9,"length":1},{"offset":2,"length":8}]`, `null`,
		`[{"offset":1e2,"length":-1}]`,
		`[{"offset":4611686018427387903,"length":1}]`, `[[[[[[`, `[{"offset":0,"length":1}]]`,
		`[{"\u006fffset":1,"length":1}]`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		x, err := job.ReadExtents(strings.NewReader(string(text)))
		if err != nil {
			if x != nil || job.KindOf(err) != job.Invalid {
				t.Fatalf("%v with an error of kind %q: %v", x, job.KindOf(err), err)
			}
			return
		}
		if !json.Valid(text) || x == nil || x.Check(1<<62) != nil {
			t.Fatalf("%q was taken as %v", text, x)
		}
		if d := cmp.Diff(append(job.Extents{}, x.Merge(0)...), x); d != "" {
			t.Fatal(d)
		}
		again, err := json.Marshal(x)
		if err != nil {
			t.Fatal(err)
		}
		back, err := job.ReadExtents(strings.NewReader(string(again)))
		if d := cmp.Diff(x, back); err != nil || d != "" {
			t.Fatalf("%v %s", err, d)
		}
	})
}
