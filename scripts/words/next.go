package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	errorPackage = "github.com/vmferry/vmferry/job"
	command      = "vmferry "
	nextArgument = 2 // of job.Errorf
)

// nextSteps checks the texts that tell a person what to do after an error: the argument of job.Errorf and the field
// Next of a job.Error. It follows the name of a constant to its value in the same file.
func (c *checker) nextSteps(s source) {
	pkg := errorName(s)
	if pkg == "" {
		return
	}
	constants := constantsOf(s)
	ast.Inspect(s.File, func(n ast.Node) bool {
		var next ast.Expr
		switch n := n.(type) {
		case *ast.CallExpr:
			if is(n.Fun, pkg, "Errorf") && len(n.Args) > nextArgument {
				next = n.Args[nextArgument]
			}
		case *ast.CompositeLit:
			if is(n.Type, pkg, "Error") {
				next = fieldOf(n, "Next")
			}
		}
		if name, ok := next.(*ast.Ident); ok {
			for _, value := range constants[name.Name] {
				c.nextStep(s, value)
			}
		} else if next != nil {
			c.nextStep(s, next)
		}
		return true
	})
}

// errorName returns the name by which a file imports the package of errors: "." in that package itself, "" if the file
// does not import it.
func errorName(s source) string {
	if s.Name.Name == "job" {
		return "."
	}
	for _, i := range s.Imports {
		if path, err := strconv.Unquote(i.Path.Value); err != nil || path != errorPackage {
			continue
		}
		if i.Name != nil {
			return i.Name.Name
		}
		return "job"
	}
	return ""
}

// is says whether an expression is this name of this package. The package "." is the file's own.
func is(e ast.Expr, pkg, name string) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return pkg == "." && e.Name == name
	case *ast.SelectorExpr:
		x, ok := e.X.(*ast.Ident)
		return ok && x.Name == pkg && e.Sel.Name == name
	default:
		return false
	}
}

// fieldOf is the value of a field in a composite literal; nil if it is not there.
func fieldOf(lit *ast.CompositeLit, name string) ast.Expr {
	for _, e := range lit.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok && key.Name == name {
				return kv.Value
			}
		}
	}
	return nil
}

// constantsOf returns the values of a file's constants. A name that several functions declare has several values.
func constantsOf(s source) map[string][]ast.Expr {
	out := map[string][]ast.Expr{}
	ast.Inspect(s.File, func(n ast.Node) bool {
		decl, ok := n.(*ast.GenDecl)
		if !ok || decl.Tok != token.CONST {
			return true
		}
		for _, spec := range decl.Specs {
			v, ok := spec.(*ast.ValueSpec)
			for i := range v.Values {
				if ok && i < len(v.Names) {
					out[v.Names[i].Name] = append(out[v.Names[i].Name], v.Values[i])
				}
			}
		}
		return true
	})
	return out
}

// nextStep checks how a text begins and ends. A beginning or an end that is not a literal is not checked.
func (c *checker) nextStep(s source, e ast.Expr) {
	first, firstKnown := stringOf(edge(e, false))
	last, lastKnown := stringOf(edge(e, true))
	if firstKnown && first != "" {
		letter, _ := utf8.DecodeRuneInString(first)
		if !unicode.IsUpper(letter) && !strings.HasPrefix(first, command) {
			c.report(s.line(e.Pos()),
				fmt.Sprintf("next step %q: begin with a capital letter or with %q", first, command))
		}
	}
	if lastKnown && strings.HasSuffix(last, ".") {
		c.report(s.line(e.Pos()), fmt.Sprintf("next step %q: end without a full stop", last))
	}
}

// edge returns the first or the last operand of a sum of strings. For a call of fmt.Sprintf it returns the format.
func edge(e ast.Expr, last bool) ast.Expr {
	for {
		switch x := e.(type) {
		case *ast.ParenExpr:
			e = x.X
		case *ast.BinaryExpr:
			if e = x.X; last {
				e = x.Y
			}
		case *ast.CallExpr:
			if !is(x.Fun, "fmt", "Sprintf") || len(x.Args) == 0 {
				return e
			}
			e = x.Args[0]
		default:
			return e
		}
	}
}

func stringOf(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}
