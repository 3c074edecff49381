package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/vmferry/vmferry/job"
)

const compareStep = 1 << 20

// content is what a target should hold: a file's bytes, or only some ranges of the file and zeros elsewhere.
type content struct {
	file string
	size int64
	only job.Extents // normal; nil for everything
}

// sameAt reads a server's content back, always with nbdcopy, and compares it.
func (c content) sameAt(ctx context.Context, uri string) (err error) {
	f, err := os.Open(c.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a difference ends the reading
	cmd := command(ctx, "nbdcopy", uri, "-")
	back, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := c.sameIn(back, f); err != nil {
		cancel()
		_ = cmd.Wait() // it was killed
		return err
	}
	return cmd.Wait()
}

// sameIn compares what back yields with the content; f is the content's file.
func (c content) sameIn(back io.Reader, f *os.File) error {
	got, want := make([]byte, compareStep), make([]byte, compareStep)
	left := c.only
	for off := int64(0); off < c.size; off += compareStep {
		n := min(compareStep, c.size-off)
		if _, err := io.ReadFull(back, got[:n]); err != nil {
			return fmt.Errorf("read back at %d: %w", off, err)
		}
		if _, err := f.ReadAt(want[:n], off); err != nil {
			return err
		}
		if c.only != nil {
			left = blankOutside(want[:n], off, left)
		}
		if !bytes.Equal(got[:n], want[:n]) {
			return fmt.Errorf("the copy is wrong, between %d and %d", off, off+n)
		}
	}
	if n, err := back.Read(got); n > 0 || !errors.Is(err, io.EOF) {
		return errors.New("the copy is longer than its source")
	}
	return nil
}

// blankOutside clears the bytes of b that are in none of the extents; b lies at off. It returns the extents that do not
// end before the end of b.
func blankOutside(b []byte, off int64, only job.Extents) job.Extents {
	end := off + int64(len(b))
	at := off
	for len(only) > 0 && only[0].Offset < end {
		e := only[0]
		if e.Offset > at {
			clear(b[at-off : e.Offset-off])
		}
		at = max(at, min(e.End(), end))
		if e.End() > end {
			break
		}
		only = only[1:]
	}
	clear(b[at-off:])
	return only
}

// compareFiles compares files or block devices of one size.
func compareFiles(ctx context.Context, got, want string) error {
	if _, err := output(ctx, "cmp", got, want); err != nil {
		return fmt.Errorf("the copy is wrong: %w", err)
	}
	return nil
}
