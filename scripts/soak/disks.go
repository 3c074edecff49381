package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vmferry/vmferry/job"
)

// disk is one of the VM's three disks.
type disk struct {
	id     job.DiskID
	image  string // the source's bytes
	size   int64
	target string // as the job's request names it
	copy   string // file with the target's bytes, when the job is done
	ext4   bool
}

const (
	mib        = 1 << 20
	sparseSize = 512 * mib
	randomSize = 256 * mib
	ext4Size   = 512 * mib
	ext4Files  = 24 // of 8 MiB
)

// makeDisks makes three disks: one with scattered data, one of random bytes, one with a file system.
func makeDisks(ctx context.Context, dir string, seed uint64) ([]disk, error) {
	at := func(name string) string { return filepath.Join(dir, name) }
	disks := []disk{
		{
			id: "disk-2000", image: at("sparse.raw"), size: sparseSize,
			target: at("t/sparse.raw"), copy: at("t/sparse.raw"),
		},
		{
			id: "disk-2001", image: at("random.raw"), size: randomSize,
			target: "nbd+unix:///?socket=" + at("memory.sock"), copy: at("random.copy"),
		},
		{
			id: "disk-2002", image: at("ext4.raw"), size: ext4Size, ext4: true,
			target: "nbd+unix:///?socket=" + at("file.sock"), copy: at("ext4.copy"),
		},
	}
	var scattered, all []job.Extent
	for off := int64(0); off < sparseSize; off += 4 * mib {
		scattered = append(scattered, job.Extent{Offset: off + off/256%mib/4096*4096, Length: 256 << 10})
	}
	all = append(all, job.Extent{Length: randomSize})
	return disks, errors.Join(noise(disks[0].image, sparseSize, scattered, seed),
		noise(disks[1].image, randomSize, all, seed+1), fileSystem(ctx, disks[2].image, seed+2))
}

// noise makes a file with random bytes in the extents where, and holes elsewhere.
func noise(path string, size int64, where []job.Extent, seed uint64) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		return errors.Join(err, f.Close())
	}
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	for _, e := range where {
		if _, err := io.Copy(io.NewOffsetWriter(f, e.Offset), io.LimitReader(source, e.Length)); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

// fileSystem makes an ext4 file system with files in it.
func fileSystem(ctx context.Context, path string, seed uint64) (err error) {
	dir := path + ".files"
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for i := range ext4Files {
		if err := noise(filepath.Join(dir, fmt.Sprint("file", i)), 8*mib, []job.Extent{{Length: 8 * mib}},
			seed+uint64(i)); err != nil {
			return err
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(ext4Size), f.Close()); err != nil {
		return err
	}
	//nolint:gosec // our own paths
	text, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-d", dir, path).CombinedOutput()
	if err != nil {
		return fmt.Errorf("make a file system: %w: %s", err, text)
	}
	return nil
}

// differing counts the bytes of file a that are others in file b.
func differing(a, b string) (n int64, err error) {
	f, err := os.Open(a)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	g, err := os.Open(b)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, g.Close()) }()
	x, y := make([]byte, mib), make([]byte, mib)
	for {
		k, err := io.ReadFull(f, x)
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			return n, err
		}
		if _, err := io.ReadFull(g, y[:k]); err != nil {
			return n, fmt.Errorf("%s: %w", b, err)
		}
		if sha256.Sum256(x[:k]) == sha256.Sum256(y[:k]) {
			continue
		}
		for i := range k {
			if x[i] != y[i] {
				n++
			}
		}
	}
}

// dialer connects to a unix socket, whatever the address.
func dialer(socket string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
}
