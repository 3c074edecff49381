package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// fault is one line of the table: tests, or a reason.
type fault struct {
	number, title, how string
	tests              []test
	reason             string // why it cannot be tried here; then there are no tests
}

// test is a top-level test of a package.
type test struct{ pkg, name string }

// The verdicts on a fault.
const (
	passed  = "pass"
	failed  = "FAIL"
	skipped = "SKIPPED"
	missing = "NO SUCH TEST"
	notHere = "not here"
)

// where names the tests, or the reason why there are none.
func (f fault) where() string {
	if f.reason != "" {
		return f.reason
	}
	var names []string
	for _, t := range f.tests {
		names = append(names, t.pkg+" "+t.name)
	}
	return strings.Join(names, ", ")
}

func (f fault) verdict(results map[test]string) string {
	if f.reason != "" {
		return notHere
	}
	for _, t := range f.tests {
		switch r := results[t]; r {
		case "pass":
		case "fail":
			return failed
		case "skip":
			return skipped
		default:
			return missing
		}
	}
	return passed
}

// tryAll runs the tests of all faults, package by package.
func tryAll(ctx context.Context, faults []fault) (map[test]string, error) {
	names := map[string][]string{}
	for _, f := range faults {
		for _, t := range f.tests {
			if !slices.Contains(names[t.pkg], t.name) {
				names[t.pkg] = append(names[t.pkg], t.name)
			}
		}
	}
	results := map[test]string{}
	for _, pkg := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(os.Stderr, "%s: %d tests\n", pkg, len(names[pkg]))
		if err := try(ctx, pkg, names[pkg], results); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// try runs tests of one package. A test that fails is no error: its result says so.
func try(ctx context.Context, pkg string, names []string, results map[test]string) error {
	//nolint:gosec // from our own table
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-count=1", "-timeout=15m", "-run", "^("+
		strings.Join(names, "|")+")$", "./"+pkg)
	vmferry, err := filepath.Abs("bin/vmferry")
	if err != nil {
		return err
	}
	cmd.Env = append(os.Environ(), "ROUNDS=2", "KILLS=3", "DISK_MIB=256", "VMFERRY="+vmferry)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	words := map[string][]string{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // the compiler writes text
		}
		top, _, sub := strings.Cut(e.Test, "/")
		switch e.Action {
		case "output":
			words[top] = append(words[top], e.Output)
		case "pass", "fail", "skip":
			if !sub && e.Test != "" {
				results[test{pkg, top}] = e.Action
			}
		}
	}
	for _, n := range names {
		if results[test{pkg, n}] == "fail" {
			fmt.Fprint(os.Stderr, strings.Join(words[n], ""))
		}
	}
	return lines.Err()
}
