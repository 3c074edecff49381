package main_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/cmd/internal/cli"
)

// TestTheClientHoldsNothingOfTheDaemon asks the compiler what is linked into vmferry.
func TestTheClientHoldsNothingOfTheDaemon(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	deps := strings.Fields(string(out))
	for _, pkg := range []string{"actors", "app", "http", "nbd/sim", "store", "vsphere", "vsphere/sim"} {
		if slices.Contains(deps, "github.com/vmferry/vmferry/"+pkg) {
			t.Errorf("vmferry holds package %s: only vmferryd may", pkg)
		}
	}
}

// TestTheClientHandsOver builds both programs as make build does, from the same cache, and asks vmferry for what only
// vmferryd has.
func TestTheClientHandsOver(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	t.Parallel()
	dir := t.TempDir()
	slim, whole := filepath.Join(dir, "vmferry"), filepath.Join(dir, "vmferryd")
	build := exec.Command("go", "build", "-trimpath", "-o", dir, ".", "../vmferryd")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	run := func(program string, args ...string) (string, int) {
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
		"", "--help", "help", "unknown", "copy", "version", "help copy", "__complete co", "__complete get --s",
		"completion bash",
		// handed over
		"serve --help", "help demo", "sim", "sim vcenter", "help sim nbd", "doctor --unknown", "demo unknown",
		"__complete sim ", "__complete serve --l", "__completeNoDesc doctor --",
	} {
		fields := strings.Split(args, " ")
		if args == "" {
			fields = nil
		}
		want, wantCode := run(whole, fields...)
		for _, program := range []string{slim, link} {
			if got, code := run(program, fields...); got != want || code != wantCode {
				t.Errorf("%s %s: exit code %d and\n%s\nwant %d and\n%s", program, args, code, got, wantCode, want)
			}
		}
	}
	stranger := exec.Command(whole, "version")
	stranger.Env = append(os.Environ(), cli.StarterVersion+"=0.0")
	if out, err := stranger.CombinedOutput(); err != nil ||
		!strings.Contains(string(out), "warning: vmferry is 0.0, and vmferryd") {
		t.Errorf("started by another version: %v, %q", err, out)
	}
	if err := os.Remove(whole); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"serve", "-x serve"} {
		if got, code := run(slim, strings.Fields(args)...); code == cli.ExitOK {
			t.Errorf("%s without %s: exit code %d and %q", args, whole, code, got)
		}
	}
	if got, code := run(slim, "serve"); code != cli.ExitFailed || !strings.Contains(got, "next: install vmferryd") {
		t.Errorf("serve alone: exit code %d and %q", code, got)
	}
	if got, code := run(slim, "version"); code != cli.ExitOK || !strings.HasPrefix(got, "vmferry ") {
		t.Errorf("version alone: exit code %d and %q", code, got)
	}
}
