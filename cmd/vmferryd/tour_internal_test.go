package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestTheTourOfTheREADMERuns pastes all shell blocks of the README into one bash.
func TestTheTourOfTheREADMERuns(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	for _, tool := range []string{"bash", "curl", "jq", "nbdkit", "cmp"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is not installed", tool)
			}
			t.Skipf("%s is not installed", tool)
		}
	}
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	script := "set -eu\n"
	for i, part := range strings.Split(string(text), "\n```sh\n") {
		if i > 0 {
			block, _, closed := strings.Cut(part, "\n```")
			if !closed {
				t.Fatalf("block %d is not closed", i)
			}
			script += block + "\n"
		}
	}
	if strings.Count(script, "\n") < 30 {
		t.Fatalf("the README has no tour:\n%s", script)
	}
	dir, err := os.MkdirTemp("", "vf") //nolint:usetesting // short, as sockets need
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "bash", "-c", script)
	c.Dir = dir
	c.Env = append(os.Environ(), "PATH="+programs(t)+":"+os.Getenv("PATH"))
	ownGroup(c)
	out, err := c.CombinedOutput()
	if err != nil {
		daemon, _ := os.ReadFile(filepath.Join(dir, "tour", "daemon.log"))
		t.Fatalf("%v\n%s\nthe daemon:\n%s", err, out, daemon)
	}
	for _, want := range []string{
		`{"round":2,"mode":"incremental","bytes_to_transfer":65536,`, "every byte is on the targets", "event: snapshot",
		"committed: the targets equal the snapshot", `"vm_name": "/DC0/vm/web"`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in the output of the tour:\n%s", want, out)
		}
	}
}

// programs is a folder with this program as vmferry.
func programs(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "vmferry")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ownGroup lets the end of the test end everything that the shell has started.
func ownGroup(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 5 * time.Second
}
