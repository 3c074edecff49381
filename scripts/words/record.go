package main

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// isRecord says whether a file is a decision of docs/adr, named NNNN-slug.md.
func isRecord(name string) bool { return path.Dir(name) == "docs/adr" && path.Ext(name) == ".md" }

// record checks that a decision begins with its number, that of its file, and its title.
func (c *checker) record(src []byte) {
	first, _, _ := bytes.Cut(src, []byte("\n"))
	head := regexp.MustCompile(`^# ([1-9][0-9]*)\. \S.*[^.]$`).FindSubmatch(first)
	digits, _, _ := strings.Cut(path.Base(c.name), "-")
	number := strings.TrimLeft(digits, "0")
	if head == nil || string(head[1]) != number {
		c.report(1, fmt.Sprintf("first line %q: write \"# %s. Title\"", first, number))
	}
}
