package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

const (
	qemuImg = "qemu-img convert"
	ourName = "vmferry copy"
)

// vmferry is the program that is measured.
type vmferry struct {
	path    string
	help    string // of its command copy
	several bool   // one call copies several disks
}

// probe copies a vmferry into scratch and finds out what it can do.
func probe(ctx context.Context, from, scratch string) (vmferry, error) {
	path := filepath.Join(scratch, "vmferry")
	if err := install(from, path); err != nil {
		return vmferry{}, err
	}
	help, err := output(ctx, path, "copy", "--help")
	if err != nil {
		return vmferry{}, err
	}
	small := filepath.Join(scratch, "probe")
	if err := os.WriteFile(small, make([]byte, mib), 0o600); err != nil {
		return vmferry{}, err
	}
	_, err = output(ctx, path, "copy", small, null, small, null, "--progress", "quiet")
	return vmferry{path: path, help: help, several: err == nil}, os.Remove(small)
}

// install copies a program, so that a new build does not change it. Besides, a file that the linker has just written is
// in the kernel's cache in so large blocks that 20 MiB more of it count as memory of the process.
func install(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o700) //nolint:gosec // a program
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// ours is vmferry with the flags that a workload wants. pairs are sources and targets in turn.
func (r *rig) ours(pairs []string, flags ...string) tool {
	for _, f := range flags {
		if strings.HasPrefix(f, "--") && !strings.Contains(r.b.vmferry.help, f+" ") {
			r.fail(skippedError{"this vmferry does not know " + f})
		}
	}
	if len(pairs) > 2 && !r.b.vmferry.several {
		r.fail(skippedError{"this vmferry copies one disk at a time"})
	}
	argv := append([]string{r.b.vmferry.path, "copy"}, pairs...)
	if !strings.Contains(strings.Join(flags, " "), "--progress") {
		argv = append(argv, "--progress", "quiet")
	}
	return one(named(ourName, shown(flags)), append(argv, flags...))
}

// shown is flags without the folders of files.
func shown(flags []string) []string {
	out := make([]string, len(flags))
	for i, f := range flags {
		out[i] = filepath.Base(f)
	}
	return out
}

func nbdcopy(src, dst string, flags ...string) tool {
	argv := append([]string{"nbdcopy"}, flags...)
	return one(named("nbdcopy", flags), append(argv, src, dst))
}

// qemu is qemu-img. size is the size of the source, which qemu-img needs for a target null:.
func qemu(src, dst string, size int64, flags ...string) tool {
	argv := append([]string{"qemu-img", "convert", "-f", "raw"}, flags...)
	name := named(qemuImg, flags)
	if dst == null {
		dst = fmt.Sprintf("driver=null-co,size=%d", size)
		return one(name, append(argv, "-n", src, "--target-image-opts", dst))
	}
	if strings.Contains(dst, ":") || strings.HasPrefix(dst, "/dev/") {
		argv = append(argv, "-n")
	}
	return one(name, append(argv, "-O", "raw", src, dst))
}

// blocking is the loop of blockingMain, in a process of its own.
func (r *rig) blocking(src, dst, list string) tool {
	self, err := os.Executable()
	if err != nil {
		r.fail(err)
	}
	return one("blocking loop", []string{self, blockingMode, src, dst, list})
}

func one(name string, argv []string) tool { return tool{name: name, commands: [][]string{argv}} }

func named(program string, flags []string) string {
	return strings.Join(append([]string{program}, flags...), " ")
}
