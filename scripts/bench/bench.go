package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	wide      = 1.5              // the largest ratio by the smallest; above this there are
	widePairs = 2                // more pairs
	uneven    = 1.2              // likewise; above this, where something is demanded, there are up to
	mostPairs = 4                // times as many pairs as usual, until the pairs of one rival have taken
	cheap     = 3 * time.Minute  // in all
	longPass  = 10 * time.Minute // most that a pass may take
)

// bench runs the workloads one after the other.
type bench struct {
	options
	vmferry vmferry
	dir     string // scratch folder, removed at the end
	data    *library
	log     io.Writer
}

func newBench(ctx context.Context, o options, log io.Writer) (_ *bench, err error) {
	if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin"); err != nil {
		return nil, err
	}
	for _, p := range []string{"nbdkit", "nbdcopy", "cmp"} {
		if _, err := exec.LookPath(p); err != nil {
			return nil, fmt.Errorf("%s is not installed", p)
		}
	}
	b := &bench{options: o, log: log}
	if b.dir, err = os.MkdirTemp(o.dir, "vmferry-bench-"); err != nil {
		return nil, err
	}
	b.data = &library{dir: filepath.Join(b.dir, "data"), have: map[string]bool{}}
	err = errors.Join(onDisk(b.dir), os.Mkdir(b.data.dir, 0o700))
	if err == nil {
		b.vmferry, err = probe(ctx, o.vmferry, b.dir)
	}
	if err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

// onDisk refuses a folder in memory: its data would take the memory that the servers need.
func onDisk(dir string) error {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return err
	}
	if s.Type == unix.TMPFS_MAGIC {
		return errors.New("the scratch folder is in memory; choose one on a disk with -dir, such as /var/tmp")
	}
	return nil
}

func (b *bench) close() error { return os.RemoveAll(b.dir) }

func (b *bench) say(format string, args ...any) { _, _ = fmt.Fprintf(b.log, format+"\n", args...) }

// run runs the workloads that are wanted, and returns the outcomes of those that were finished before ctx ended.
func (b *bench) run(ctx context.Context, all []workload) []outcome {
	var out []outcome
	for _, w := range all {
		if ctx.Err() != nil {
			break
		}
		if b.only != nil && !b.only.MatchString(w.name) {
			continue
		}
		b.say("%s", w.name)
		u := b.runWorkload(ctx, w)
		if ctx.Err() != nil {
			break // it was not finished
		}
		out = append(out, u)
	}
	return out
}

// enoughMemory says whether there is free memory for a workload's servers.
func (b *bench) enoughMemory(w workload) error {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return err
	}
	_, rest, _ := strings.Cut(string(text), "MemAvailable:")
	number, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	kib, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		return err
	}
	if want := int64(float64(w.memory) * b.scale * 1.2); kib*1024 < want {
		return skippedError{fmt.Sprintf("it takes %.0f GiB of free memory", float64(want)/gib)}
	}
	return nil
}
