package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A test that is renamed would otherwise be missed only by the next make faults.
func TestEveryTestOfTheTableExists(t *testing.T) {
	texts := map[string]string{} // of a package's tests
	for _, f := range table() {
		for _, test := range f.tests {
			if texts[test.pkg] == "" {
				texts[test.pkg] = testsOf(t, test.pkg)
			}
			if !strings.Contains(texts[test.pkg], "\nfunc "+test.name+"(t *testing.T)") {
				t.Errorf("%s names %s of %s, which is not there", f.number, test.name, test.pkg)
			}
		}
	}
}

func testsOf(t *testing.T, pkg string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("../..", pkg, "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests in %s: %v", pkg, err)
	}
	var all strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
