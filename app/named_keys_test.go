package app_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/app"
)

// namedKey is what looks like a key of the configuration.
var namedKey = regexp.MustCompile(
	`(?:^|[^\w./{-])((?:vcenter|source|targets|redis|sql|limits|report|log|nodes|link)\.[a-z][a-z_]*[a-z])` +
		`(?:$|[^\w.(-])`)

// texts calls f for each string in the programs' own source, without tests.
func texts(t *testing.T, f func(at token.Position, text string)) {
	t.Helper()
	files := token.NewFileSet()
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || name == "scripts" || path != ".." && strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					f(files.Position(lit.Pos()), text)
				}
			}
			return true
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestEachKeyThatATextNamesExists(t *testing.T) {
	known := map[string]bool{"limits.bandwidth": true} // an old name, which is still read
	for _, key := range app.Keys() {
		known[key] = true
	}
	found := 0
	texts(t, func(at token.Position, text string) {
		for _, m := range namedKey.FindAllStringSubmatch(text, -1) {
			found++
			if !known[m[1]] && !strings.HasSuffix(m[1], ".sock") {
				t.Errorf("%s: there is no key %s: %q", at, m[1], text)
			}
		}
	})
	if found < 30 {
		t.Errorf("only %d keys were found in texts", found)
	}
}
