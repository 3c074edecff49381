package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"libguestfs.org/libnbd"

	"github.com/vmferry/vmferry/job"
)

const (
	blockingMode  = "blocking" // first argument of the bench, as a program that copies
	blockingChunk = 64 << 20   // bytes of its largest read
)

// blockingMain copies changed ranges as simple tools do: one handle for each side, a read, then a write, one range
// after the other, each with a buffer of its own.
func blockingMain(args []string, stderr io.Writer) int {
	if len(args) != 3 {
		_, _ = fmt.Fprintf(stderr, "usage: bench %s SOURCE TARGET FILE\n", blockingMode)
		return exitUsage
	}
	if err := copyBlocking(args[0], args[1], args[2]); err != nil {
		_, _ = fmt.Fprintf(stderr, "bench %s: %v\n", blockingMode, err)
		return exitFailed
	}
	return 0
}

func copyBlocking(source, target, list string) error {
	text, err := os.ReadFile(list) //nolint:gosec // the path is what we were called with
	if err != nil {
		return err
	}
	var changed job.Extents
	if err := json.Unmarshal(text, &changed); err != nil {
		return err
	}
	return withHandle(source, func(src *libnbd.Libnbd) error {
		return withHandle(target, func(dst *libnbd.Libnbd) error {
			for _, e := range changed {
				if err := copyRange(src, dst, e); err != nil {
					return err
				}
			}
			return dst.Flush(nil)
		})
	})
}

func copyRange(src, dst *libnbd.Libnbd, e job.Extent) error {
	for off := e.Offset; off < e.End(); {
		buf := make([]byte, min(blockingChunk, e.End()-off))
		err := src.Pread(buf, uint64(off), nil)
		if err == nil {
			err = dst.Pwrite(buf, uint64(off), nil)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("copy %v", e), err)
		}
		off += int64(len(buf))
	}
	return nil
}
