package main

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
)

// finding is something to mend.
type finding struct {
	file string
	line int
	what string
}

func (f finding) String() string { return fmt.Sprintf("%s:%d: %s", f.file, f.line, f.what) }

// checker checks one file at a time. It is not safe for several goroutines.
type checker struct {
	write    map[string]string // for each form of a coined word what to write instead
	name     string            // of the present file
	findings []finding         // in it
}

func newChecker() *checker {
	c := &checker{write: map[string]string{}}
	for _, e := range coined() {
		for form := range strings.FieldsSeq(e.forms) {
			c.write[form] = e.write
		}
	}
	return c
}

// file returns what is found in one file, in the order of its lines.
func (c *checker) file(name string, src []byte) []finding {
	c.name, c.findings = name, nil
	switch {
	case bytes.IndexByte(src, 0) >= 0: // not text
	case path.Ext(name) == ".go":
		c.goFile(src)
	case !exempt(name):
		c.text(string(src))
	}
	if isRecord(name) {
		c.record(src)
	}
	if !exempt(name) {
		c.words(name, 1, " in the file's name")
	}
	slices.SortStableFunc(c.findings, func(a, b finding) int { return cmp.Compare(a.line, b.line) })
	return c.findings
}

// text checks the words of a file that is not Go.
func (c *checker) text(src string) {
	for i, line := range strings.Split(src, "\n") {
		if c.name == changelog && isPast(line) {
			return
		}
		c.words(line, i+1, "")
		if ofThePage(c.name) {
			c.columns(line, i+1)
		}
	}
}

// ofThePage says whether a file is a source of the page, whose lines have a width too.
func ofThePage(name string) bool {
	return strings.HasPrefix(name, "web/src/") && slices.Contains([]string{".svelte", ".ts", ".css"}, path.Ext(name))
}

// words reports each coined word of a text, once for each line. The text begins in the given line of the file; where
// is part of the report.
func (c *checker) words(text string, line int, where string) {
	for i, part := range strings.Split(text, "\n") {
		for _, name := range names(part) {
			if slices.Contains(stored(), name) {
				continue
			}
			for _, w := range split(name) {
				w = strings.ToLower(w)
				if write, found := c.write[w]; found {
					c.report(line+i, fmt.Sprintf("word %q%s: write %s", w, where, write))
				}
			}
		}
	}
}

func (c *checker) report(line int, what string) {
	if f := (finding{c.name, line, what}); !slices.Contains(c.findings, f) {
		c.findings = append(c.findings, f)
	}
}

// names returns the words and the names in a text. It leaves out the letters of escapes such as \n.
func names(text string) []string {
	text = strings.NewReplacer(`\n`, " ", `\r`, " ", `\t`, " ").Replace(text)
	return strings.FieldsFunc(text, func(r rune) bool {
		return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}

// split cuts a name at each character that is not a letter, and where a capital begins a part: some_name, TCPName.
func split(name string) []string {
	var out []string
	for part := range strings.FieldsFuncSeq(name, func(r rune) bool { return !unicode.IsLetter(r) }) {
		letters := []rune(part)
		from := 0
		for i := 1; i < len(letters); i++ {
			rises := unicode.IsUpper(letters[i]) && !unicode.IsUpper(letters[i-1])
			ends := unicode.IsUpper(letters[i]) && i+1 < len(letters) && unicode.IsLower(letters[i+1])
			if rises || ends {
				out, from = append(out, string(letters[from:i])), i
			}
		}
		out = append(out, string(letters[from:]))
	}
	return out
}
