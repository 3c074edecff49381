package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const loadUnit = 1 << 16 // 1.0 in the kernel's load averages

// machine describes where and when the figures were measured.
type machine struct {
	day      string
	hardware string
	programs string
}

func machineOf(ctx context.Context, vmferry string) machine {
	var u unix.Utsname
	var s unix.Sysinfo_t
	hardware := fmt.Sprintf("%d cores of %s", runtime.NumCPU(), processor())
	if unix.Sysinfo(&s) == nil {
		hardware += fmt.Sprintf(", %.0f GiB of memory; load average %.1f at the start",
			float64(s.Totalram)*float64(s.Unit)/gib, float64(s.Loads[0])/loadUnit)
	}
	if unix.Uname(&u) == nil {
		hardware += fmt.Sprintf("; Linux %s", unix.ByteSliceToString(u.Release[:]))
	}
	return machine{time.Now().Format("2 January 2006"), hardware, strings.Join([]string{
		version(ctx, vmferry, "version"), version(ctx, "nbdcopy", "--version"), version(ctx, "nbdkit", "--version"),
		version(ctx, "qemu-img", "--version"),
	}, "; ")}
}

// processor is the name of the first processor.
func processor() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	_, rest, found := strings.Cut(string(text), "model name")
	name, _, _ := strings.Cut(rest, "\n")
	if _, name, _ = strings.Cut(name, ":"); !found {
		return runtime.GOARCH
	}
	return strings.TrimSpace(name)
}

// version is the first line that a program prints, with nbdcopy's library if the second names one.
func version(ctx context.Context, argv ...string) string {
	text, err := output(ctx, argv...)
	if err != nil {
		return "no " + argv[0]
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if len(lines) > 1 && strings.HasPrefix(lines[1], "lib") {
		return lines[0] + ", " + lines[1]
	}
	return lines[0]
}
