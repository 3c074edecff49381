package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

const (
	noiseStep   = 1 << 20
	rangeSize   = 64 << 10 // bytes of a scattered range
	fsBlock     = 4 << 10  // bytes of what file systems allocate at least
	filesFolder = 256      // files in one folder
)

// library keeps files that several workloads read.
type library struct {
	dir  string
	have map[string]bool
}

// get returns the path of a file, which the first call for it makes.
func (l *library) get(name string, write func(path string) error) (string, error) {
	path := filepath.Join(l.dir, name)
	if l.have[name] {
		return path, nil
	}
	if err := write(path); err != nil {
		return "", errors.Join(err, os.RemoveAll(path))
	}
	unix.Sync() // so that no write-back goes on while a tool is timed
	l.have[name] = true
	return path, nil
}

// noise is a stream of random bytes, the same in each run.
func noise(seed byte) *rand.ChaCha8 { return rand.NewChaCha8([32]byte{seed}) }

// writeNoise writes a file of size random bytes.
func writeNoise(ctx context.Context, path string, size int64, seed byte) error {
	return writeExtents(ctx, path, size, job.Extents{{Length: size}}, seed)
}

// writeExtents writes a file with random bytes in the extents and holes elsewhere.
func writeExtents(ctx context.Context, path string, size int64, extents job.Extents, seed byte) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(size); err != nil {
		return err
	}
	random, buf := noise(seed), make([]byte, min(noiseStep, size))
	for _, e := range extents {
		for off := e.Offset; off < e.End(); off += noiseStep {
			b := buf[:min(noiseStep, e.End()-off)]
			_, _ = random.Read(b) // never fails
			if _, err := f.WriteAt(b, off); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// scatter puts one range into each stride of a disk, at a random multiple of step. The last rangeSize bytes of each
// stride stay free, so no two ranges touch.
func scatter(count int, stride, step int64) job.Extents {
	random := rand.New(noise(1)) //nolint:gosec // guards nothing
	places := (stride-2*rangeSize)/step + 1
	out := make(job.Extents, count)
	for i := range out {
		out[i] = job.Extent{Offset: int64(i)*stride + random.Int64N(places)*step, Length: rangeSize}
	}
	return out
}

// litter puts a small range after every 50th of scatter's, where scatter leaves the bytes free.
func litter(count int, stride int64) job.Extents {
	const each, size = 50, 4 << 10
	var out job.Extents
	for i := 0; i < count; i += each {
		out = append(out, job.Extent{Offset: int64(i+1)*stride - rangeSize/2, Length: size})
	}
	return out
}

func writeList(path string, extents job.Extents) error {
	text, err := json.Marshal(extents)
	if err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o600)
}

// writeExt4 makes an image of a file system with files of several sizes in it.
func writeExt4(ctx context.Context, path string, size, files int64) (err error) {
	folder := path + ".files"
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	for i, kind := range []struct{ size, share int64 }{{64 << 20, 6}, {1 << 20, 3}, {16 << 10, 1}} {
		if err := plant(ctx, filepath.Join(folder, fmt.Sprint(i)), max(1, files*kind.share/10/kind.size),
			kind.size); err != nil {
			return err
		}
	}
	_, err = output(ctx, "mkfs.ext4", "-q", "-F", "-d", folder, path, fmt.Sprintf("%dk", size/1024))
	return err
}

// plant writes files of one size, at most filesFolder in one folder.
func plant(ctx context.Context, folder string, count, size int64) error {
	for i := range count {
		sub := filepath.Join(folder, fmt.Sprint(i/filesFolder))
		if err := os.MkdirAll(sub, 0o700); err != nil {
			return err
		}
		if err := writeNoise(ctx, filepath.Join(sub, fmt.Sprint(i%filesFolder)), size, byte(i)); err != nil {
			return err
		}
	}
	return nil
}
