package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/scanner"
	"go/token"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	mostColumns = 120
	tabColumns  = 4
)

// source is one parsed file of Go.
type source struct {
	*ast.File
	files *token.FileSet
}

func (s source) line(p token.Pos) int { return s.files.Position(p).Line }

// goFile checks a file of Go. Generated files are not checked.
func (c *checker) goFile(src []byte) {
	files := token.NewFileSet()
	f, err := parser.ParseFile(files, c.name, src, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		line := 1
		if list, ok := err.(scanner.ErrorList); ok && len(list) > 0 { //nolint:errorlint // the parser wraps nothing
			line = list[0].Pos.Line
		}
		c.report(line, "not Go: "+err.Error())
		return
	}
	if ast.IsGenerated(f) {
		return
	}
	s := source{f, files}
	if !exempt(c.name) {
		c.goWords(s)
	}
	c.width(s, src)
	c.nextSteps(s)
}

// goWords checks names, comments and strings. It leaves out the paths of imports: their packages chose them.
func (c *checker) goWords(s source) {
	for _, group := range s.Comments {
		for _, comment := range group.List {
			c.words(comment.Text, s.line(comment.Slash), "")
		}
	}
	tags := map[*ast.BasicLit]bool{}
	ast.Inspect(s.File, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.ImportSpec:
			if n.Name != nil {
				c.words(n.Name.Name, s.line(n.Name.Pos()), "")
			}
			return false
		case *ast.Field:
			tags[n.Tag] = true
		case *ast.Ident:
			c.words(n.Name, s.line(n.Pos()), "")
		case *ast.BasicLit:
			if tags[n] {
				c.tag(n, s.line(n.Pos()))
			} else {
				c.literal(n, s.line(n.Pos()))
			}
		}
		return true
	})
}

// literal checks a string. Only a raw string spans lines of the source.
func (c *checker) literal(lit *ast.BasicLit, line int) {
	text, err := strconv.Unquote(lit.Value)
	if err != nil || lit.Kind != token.STRING {
		return
	}
	if lit.Value[0] == '"' {
		text = strings.ReplaceAll(text, "\n", " ")
	}
	c.words(text, line, "")
}

// tag checks the texts for people in a struct tag.
func (c *checker) tag(lit *ast.BasicLit, line int) {
	text, err := strconv.Unquote(lit.Value)
	if err != nil {
		return
	}
	for _, key := range readTags() {
		c.words(reflect.StructTag(text).Get(key), line, "")
	}
}

// width finds long lines. Its rule is that of the linter lll: imports and directives can't be broken and are left out.
func (c *checker) width(s source, src []byte) {
	unbroken := map[int]bool{}
	for _, i := range s.Imports {
		unbroken[s.line(i.Pos())] = true
	}
	for i, line := range strings.Split(string(src), "\n") {
		if !unbroken[i+1] && !strings.HasPrefix(line, "//go:") {
			c.columns(line, i+1)
		}
	}
}

// columns reports a long line.
func (c *checker) columns(text string, line int) {
	n := utf8.RuneCountInString(strings.ReplaceAll(text, "\t", strings.Repeat(" ", tabColumns)))
	if n > mostColumns {
		c.report(line, fmt.Sprintf("%d columns: break the line at %d (a tab counts %d)", n, mostColumns, tabColumns))
	}
}
