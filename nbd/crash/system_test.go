package crash_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// privileged skips the test if it may not mount or make loop devices.
func privileged(tb testing.TB) {
	tb.Helper()
	if os.Getuid() != 0 {
		tb.Skip("only root can mount and make loop devices")
	}
	if f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0); err != nil {
		tb.Skipf("there are no loop devices here: %v", err)
	} else {
		f.Close()
	}
}

// mustExec runs a program of the system, and returns its output.
func mustExec(tb testing.TB, program string, args ...string) string {
	tb.Helper()
	path := find(tb, program)
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		tb.Fatalf("%s %q: %v: %s", program, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// find looks for a program, also in the directories of root's programs.
func find(tb testing.TB, program string) string {
	tb.Helper()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin") {
		if path := filepath.Join(dir, program); exists(path) {
			return path
		}
	}
	skipOrFail(tb, program+" is not installed")
	return ""
}

// loop makes a loop device for a file.
func loop(tb testing.TB, path string, args ...string) string {
	tb.Helper()
	privileged(tb)
	device := mustExec(tb, "losetup", append(append([]string{"--find", "--show"}, args...), path)...)
	tb.Cleanup(func() { mustExec(tb, "losetup", "--detach", device) })
	return device
}

// mount mounts a file system on a new folder.
func mount(tb testing.TB, kind, device, options string) string {
	tb.Helper()
	privileged(tb)
	dir := shortDir(tb)
	if err := syscall.Mount(device, dir, kind, 0, options); err != nil {
		tb.Skipf("%s can't be mounted here: %v", kind, err)
	}
	tb.Cleanup(func() { check(tb, syscall.Unmount(dir, 0)) })
	return dir
}
