package main

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the blocks of docs/consumers.md")

// TestTheDocumentShowsTheExamplesAsTheyAre compares each block that names a file with that file.
func TestTheDocumentShowsTheExamplesAsTheyAre(t *testing.T) {
	document := filepath.Join("..", "..", "docs", "consumers.md")
	text, err := os.ReadFile(document)
	fatal(t, err)
	block := regexp.MustCompile("(?ms)^```(\\w+) (examples/\\S+)\n(.*?)^```$")
	shown := map[string]bool{}
	right := block.ReplaceAllFunc(text, func(b []byte) []byte {
		part := block.FindSubmatch(b)
		file := string(part[2])
		code, err := os.ReadFile(filepath.Join("..", "..", file))
		fatal(t, err)
		shown[file] = true
		if !*update && string(code) != string(part[3]) {
			t.Errorf("docs/consumers.md does not show %s as it is: run go test ./cmd/vmferryd -run %s -update", file,
				t.Name())
		}
		return []byte("```" + string(part[1]) + " " + file + "\n" + string(code) + "```")
	})
	if *update {
		fatal(t, os.WriteFile(document, right, 0o600))
	}
	for _, pattern := range []string{"*.*", "*/main.go"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "examples", pattern))
		fatal(t, err)
		for _, f := range files {
			if name, _ := filepath.Rel(filepath.Join("..", ".."), f); !shown[name] {
				t.Errorf("docs/consumers.md does not show %s", name)
			}
		}
	}
	if len(shown) < 8 {
		t.Errorf("docs/consumers.md shows %d examples", len(shown))
	}
}
