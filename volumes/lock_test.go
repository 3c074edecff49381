package volumes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/volumes"
)

// qemuNBD serves a raw file until the test ends, or until the returned function is called.
func qemuNBD(t *testing.T, file string) (stop func()) {
	t.Helper()
	if _, err := exec.LookPath("qemu-nbd"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("qemu-nbd is not installed")
		}
		t.Skip("qemu-nbd is not installed")
	}
	dir, err := os.MkdirTemp("", "vol") //nolint:usetesting // the path of a socket must be short
	check(t, err)
	pid := filepath.Join(dir, "pid")
	c := exec.Command("qemu-nbd", "-f", "raw", "-t", "-k", filepath.Join(dir, "s"), "--pid-file", pid, file)
	check(t, c.Start())
	ended := false
	stop = func() {
		if !ended {
			c.Process.Kill()
			c.Wait()
			check(t, os.RemoveAll(dir))
		}
		ended = true
	}
	t.Cleanup(stop)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-tick.C {
		if b, err := os.ReadFile(pid); err == nil && len(b) > 0 {
			return stop
		}
	}
	t.Fatal("qemu-nbd did not begin to listen within 30 s")
	return nil
}

func TestAFileThatQEMUWritesIsNoTarget(t *testing.T) {
	path := dirty(t, mib)
	stop := qemuNBD(t, path)
	_, err := volumes.Open(t.Context(), path, volumes.Options{})
	wantKind(t, err, job.Conflict)
	for _, word := range []string{"QEMU", "writing"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
	// The next one opens it while the kernel may not have taken the locks back yet.
	stop()
	v, err := volumes.Open(t.Context(), path, volumes.Options{})
	check(t, err)
	check(t, v.Close())
}

func TestATargetIsKeptFromQEMUAsLongAsItIsOpen(t *testing.T) {
	if _, err := exec.LookPath("qemu-io"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("qemu-io is not installed")
		}
		t.Skip("qemu-io is not installed")
	}
	path := dirty(t, mib)
	v, err := volumes.Open(t.Context(), path, volumes.Options{})
	check(t, err)
	write := func() ([]byte, error) {
		return exec.Command("qemu-io", "-f", "raw", "-c", "write 0 4k", path).CombinedOutput()
	}
	if out, err := write(); err == nil || !strings.Contains(string(out), "lock") {
		t.Errorf("QEMU could write to an open target: %v: %s", err, out)
	}
	check(t, v.Close())
	if out, err := write(); err != nil {
		t.Errorf("the target is closed, and QEMU could not write to it: %v: %s", err, out)
	}
}
