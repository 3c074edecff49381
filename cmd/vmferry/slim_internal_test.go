//go:build !slim

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTheSlimProgramHandsOver builds both programs as make build does, from the same cache, and asks the slim one for
// what only the whole has.
func TestTheSlimProgramHandsOver(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	slim, whole := filepath.Join(dir, "vmferry"), filepath.Join(dir, "vmferryd")
	for _, build := range [][]string{{"-tags", "slim", "-o", slim}, {"-o", whole}} {
		if out, err := exec.Command("go", append(append([]string{"build", "-trimpath"}, build...),
			".")...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	said := func(program string, args ...string) (string, int) {
		cmd := exec.Command(program, args...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	link := filepath.Join(t.TempDir(), "ferry")
	if err := os.Symlink(slim, link); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		// its own
		"", "--help", "help", "nonsense", "copy", "version", "help copy", "__complete co", "__complete get --s",
		"completion bash",
		// handed over
		"serve --help", "help demo", "sim", "sim vcenter", "help sim nbd", "doctor --nonsense", "demo nonsense",
		"__complete sim ", "__complete serve --l", "__completeNoDesc doctor --",
	} {
		fields := strings.Split(args, " ")
		if args == "" {
			fields = nil
		}
		want, wantCode := said(whole, fields...)
		for _, program := range []string{slim, link} {
			if got, code := said(program, fields...); got != want || code != wantCode {
				t.Errorf("%s %s: exit code %d and\n%s\nwant %d and\n%s", program, args, code, got, wantCode, want)
			}
		}
	}
	stranger := exec.Command(whole, "version")
	stranger.Env = append(os.Environ(), starterVersion+"=0.0")
	if out, err := stranger.CombinedOutput(); err != nil ||
		!strings.Contains(string(out), "warning: vmferry is 0.0, and vmferryd") {
		t.Errorf("started by another version: %v, %q", err, out)
	}
	if err := os.Remove(whole); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"serve", "-x serve"} {
		if got, code := said(slim, strings.Fields(args)...); code == exitOK {
			t.Errorf("%s without %s: exit code %d and %q", args, whole, code, got)
		}
	}
	if got, code := said(slim, "serve"); code != exitFailed || !strings.Contains(got, "next: install vmferryd") {
		t.Errorf("serve alone: exit code %d and %q", code, got)
	}
	if got, code := said(slim, "version"); code != exitOK || !strings.HasPrefix(got, "vmferry ") {
		t.Errorf("version alone: exit code %d and %q", code, got)
	}
}
