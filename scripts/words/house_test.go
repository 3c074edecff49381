package main

import (
	"os"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestTheLinterHoldsTheTableOfTheHouse compares the import table of docs/HACKING.md with the rules of depguard, in both
// directions.
func TestTheLinterHoldsTheTableOfTheHouse(t *testing.T) {
	table, rules := importTable(t), importRules(t)
	for folder, allowed := range table {
		if !slices.Equal(allowed, rules[folder]) {
			t.Errorf("%s: the table allows %q, the linter %q", folder, allowed, rules[folder])
		}
	}
	for folder := range rules {
		if _, ok := table[folder]; !ok {
			t.Errorf("%s has a rule of the linter, and no row in the table", folder)
		}
	}
}

// importTable is what docs/HACKING.md allows each folder to import, sorted.
func importTable(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/HACKING.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(line, "|")
		if len(cells) != 6 || !strings.HasPrefix(line, "| `") {
			continue
		}
		var allowed []string
		for name := range strings.SplitSeq(cells[3]+","+cells[4], ",") {
			if name = strings.TrimSpace(name); name != "-" {
				allowed = append(allowed, name)
			}
		}
		slices.Sort(allowed)
		out[strings.Trim(cells[1], " `")] = allowed
	}
	if len(out) < 15 {
		t.Fatalf("the table has only %d rows that can be read", len(out))
	}
	return out
}

// importRules is the same of .golangci.yml.
func importRules(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile("../../.golangci.yml")
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Linters struct {
			Settings struct {
				Depguard struct {
					Rules map[string]struct {
						Mode  string   `yaml:"list-mode"`
						Files []string `yaml:"files"`
						Allow []string `yaml:"allow"`
					} `yaml:"rules"`
				} `yaml:"depguard"`
			} `yaml:"settings"`
		} `yaml:"linters"`
	}
	if err := yaml.Unmarshal(text, &config); err != nil {
		t.Fatal(err)
	}
	out := map[string][]string{}
	for name, r := range config.Linters.Settings.Depguard.Rules {
		if r.Mode != "strict" || len(r.Files) != 2 || !slices.Contains(r.Allow, "$gostd") {
			t.Errorf("rule %s is not strict, or does not name one folder", name)
			continue
		}
		var allowed []string
		for _, a := range r.Allow {
			if a != "$gostd" {
				allowed = append(allowed, strings.TrimSuffix(strings.TrimPrefix(a, "github.com/vmferry/vmferry/"), "$"))
			}
		}
		slices.Sort(allowed)
		out[strings.TrimSuffix(strings.TrimPrefix(r.Files[0], "**/"), "/*.go")] = allowed
	}
	return out
}
