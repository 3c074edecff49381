package crash_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/job"
)

// image makes a disk of random bytes, written zeros, and holes, in runs of any length up to 4 MiB or a sixteenth of the
// disk. Its second half has little data, in many places.
func image(tb testing.TB, path string, size, seed int64) string {
	tb.Helper()
	random := rand.New(rand.NewPCG(uint64(seed), uint64(size)))
	bytesOf := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(size), byte(size >> 24)})
	f, err := os.Create(path)
	check(tb, err)
	check(tb, f.Truncate(size))
	buf := make([]byte, max(1, min(4*mib, size/16)))
	for at := int64(0); at < size; {
		longest, data, zeros := int64(len(buf)), 9, 12 // of 20
		if at >= size/2 {
			longest, data, zeros = min(longest, 512*kib), 3, 4
		}
		n := min(size-at, 1+random.Int64N(longest))
		if random.IntN(3) > 0 {
			n = max(1, min(n, (at+n)/4096*4096-at)) // most runs end where a block does
		}
		part := buf[:n]
		switch kind := random.IntN(20); {
		case kind < data:
			bytesOf.Read(part)
			_, err = f.WriteAt(part, at)
		case kind < zeros:
			clear(part)
			_, err = f.WriteAt(part, at)
		}
		check(tb, err)
		at += n
	}
	check(tb, f.Close())
	return path
}

// source is an image for one test.
func source(tb testing.TB, size, seed int64) string {
	tb.Helper()
	return image(tb, filepath.Join(tb.TempDir(), "source"), size, seed)
}

// garbageTarget is a target that has a wrong block in every 64 KiB, so that it is not right by chance.
func garbageTarget(tb testing.TB, size int64) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "target")
	f, err := os.Create(path)
	check(tb, err)
	check(tb, f.Truncate(size))
	block := bytes.Repeat([]byte{0xAA}, 4*kib)
	for at := int64(0); at+4*kib <= size; at += 64 * kib {
		_, err := f.WriteAt(block, at)
		check(tb, err)
	}
	check(tb, f.Close())
	return path
}

// differing counts the bytes that differ between two files. The bytes that got lacks at its end count too.
func differing(tb testing.TB, got, want string) (n int64) {
	tb.Helper()
	a, err := os.Open(got)
	check(tb, err)
	defer a.Close()
	b, err := os.Open(want)
	check(tb, err)
	defer b.Close()
	x, y := make([]byte, mib), make([]byte, mib)
	for {
		ny, err := io.ReadFull(b, y)
		if ny == 0 && errors.Is(err, io.EOF) {
			return n
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			tb.Fatal(err)
		}
		nx, err := io.ReadFull(a, x[:ny])
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			tb.Fatal(err)
		}
		if nx == ny && bytes.Equal(x[:nx], y[:ny]) {
			continue
		}
		n += int64(ny - nx)
		for i := range x[:nx] {
			if x[i] != y[i] {
				n++
			}
		}
	}
}

// same checks that two files hold the same bytes.
func same(tb testing.TB, got, want string) {
	tb.Helper()
	if n := differing(tb, got, want); n > 0 {
		tb.Errorf("%d bytes differ", n)
	}
}

// exists says whether a path exists.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// fill writes random bytes to a range of a file.
func fill(tb testing.TB, path string, from, to int64) {
	tb.Helper()
	b := make([]byte, to-from)
	rand.NewChaCha8([32]byte{'f'}).Read(b)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(tb, err)
	_, err = f.WriteAt(b, from)
	check(tb, errors.Join(err, f.Close()))
}

// differingOutside counts the bytes that differ outside of the ranges.
func differingOutside(tb testing.TB, got, want string, but job.Extents) (n int64) {
	tb.Helper()
	a, err := os.ReadFile(got)
	check(tb, err)
	b, err := os.ReadFile(want)
	check(tb, err)
	for _, e := range job.Whole(int64(len(b))).Cut(but) {
		if bytes.Equal(a[e.Offset:e.End()], b[e.Offset:e.End()]) {
			continue
		}
		for i := e.Offset; i < e.End(); i++ {
			if a[i] != b[i] {
				n++
			}
		}
	}
	return n
}

// grow sets the size of a file, which it creates if needed. New bytes are a hole.
func grow(tb testing.TB, path string, size int64) {
	tb.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o600)
	check(tb, err)
	check(tb, errors.Join(f.Truncate(size), f.Close()))
}
