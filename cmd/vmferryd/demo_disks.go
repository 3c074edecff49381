package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/cmd/internal/cli"
	"github.com/vmferry/vmferry/job"
)

// Properties of the demo's disks.
const (
	leastDemoDisk = 64 << 20 // less has no room for the files
	mostDemoDisks = 15       // on one SCSI controller
	fileSystemBlk = 4096     // bytes; given to mkfs, which takes smaller blocks for small disks
	demoFiles     = 8        // on each disk
)

// demoDisk is one disk of the demo's VM: a raw image with an ext4 file system and files in it.
type demoDisk struct {
	id    job.DiskID
	image string
	size  int64
	fill  float64 // share of the disk that its files take
}

// demoDisks are the disks: the first is mostly holes, the second is dense, further disks are in between.
func demoDisks(dir string, n int, size int64) []demoDisk {
	fills := []float64{0.04, 0.85, 0.4, 0.2}
	out := make([]demoDisk, n)
	for i := range out {
		image := filepath.Join(dir, fmt.Sprintf("web-%d.raw", i))
		out[i] = demoDisk{job.NewDiskID(int32(2000 + i)), image, size, fills[i%len(fills)]}
	}
	return out
}

// make writes the image. The files come from a folder, which is removed afterwards.
func (d demoDisk) make(ctx context.Context, mkfs string) (err error) {
	folder := d.image + ".files"
	//nolint:gosec // it becomes the root of a guest's file system
	if err := os.MkdirAll(filepath.Join(folder, "srv"), 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	text := "This disk was made by vmferry demo. " + string(d.id) + "\n"
	//nolint:gosec // for everybody in the guest
	if err := os.WriteFile(filepath.Join(folder, "README"), []byte(text), 0o644); err != nil {
		return err
	}
	each := int64(float64(d.size)*d.fill/demoFiles) &^ (1<<16 - 1)
	for i := range demoFiles {
		if err := noise(filepath.Join(folder, "srv", dataFile(i)), each, uint64(len(d.image)*100+i)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if err := sparse(d.image, d.size); err != nil {
		return err
	}
	args := []string{
		"-q", "-F", "-b", strconv.Itoa(fileSystemBlk), "-J", "size=4", "-m", "0", "-L", string(d.id),
		"-d", folder, d.image,
	}
	//nolint:gosec // fixed arguments and our own paths
	text2, err := exec.CommandContext(ctx, mkfs, args...).CombinedOutput()
	if err != nil {
		return job.Errorf("make a file system", job.IO, "", "%w: %s", err, cli.OneLine(string(text2)))
	}
	return nil
}

func dataFile(i int) string { return fmt.Sprintf("data-%d.bin", i) }

func sparse(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// noise writes a file of bytes that cannot be compressed and hold no runs of zeros: a key stream, at gigabytes a
// second.
func noise(path string, size int64, seed uint64) error {
	var key, iv [16]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return err
	}
	stream := cipher.NewCTR(block, iv[:])
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for size > 0 && err == nil {
		p := buf[:min(size, int64(len(buf)))]
		clear(p)
		stream.XORKeyStream(p, p)
		_, err = f.Write(p)
		size -= int64(len(p))
	}
	return errors.Join(err, f.Close())
}

// dataBlocks lists the blocks of the image that hold a file, in the file's order.
func (d demoDisk) dataBlocks(ctx context.Context, file int) ([]int64, error) {
	debugfs, err := app.FindProgram("debugfs", "e2fsprogs")
	if err != nil {
		return nil, err
	}
	//nolint:gosec // fixed arguments and our own paths
	text, err := exec.CommandContext(ctx, debugfs, "-R", "blocks /srv/"+dataFile(file), d.image).Output()
	if err != nil {
		return nil, job.Errorf("look into "+d.image, job.IO, "", "%w", err)
	}
	var out []int64
	for word := range strings.FieldsSeq(string(text)) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil || n <= 0 || n*fileSystemBlk >= d.size {
			return nil, job.Errorf("look into "+d.image, job.Corrupt, "", "debugfs answered %q", cli.Clip(word, 40))
		}
		out = append(out, n)
	}
	return out, nil
}

// guestWrite is one write of the demo's guest.
type guestWrite struct {
	disk   job.DiskID
	offset int64
	length int64
	zero   bool
}

// guestWrites are some writes to the files of a disk, every fourth of zeros. Each write stays within blocks of one
// file, so the file system stays consistent, as with a real guest.
func (d demoDisk) guestWrites(ctx context.Context) ([]guestWrite, error) {
	want := max(64<<10, min(512<<10, d.size/2048&^(64<<10-1)))
	var out []guestWrite
	for i := range demoFiles {
		blocks, err := d.dataBlocks(ctx, i)
		if err != nil {
			return nil, err
		}
		start, n := longestRun(blocks, int(want/fileSystemBlk))
		if n > 0 {
			out = append(out, guestWrite{d.id, start * fileSystemBlk, int64(n) * fileSystemBlk, i%4 == 3})
		}
	}
	return out, nil
}

// longestRun finds the longest run of consecutive blocks, of at most most blocks.
func longestRun(blocks []int64, most int) (start int64, n int) {
	for i := 0; i < len(blocks) && n < most; {
		j := i + 1
		for j < len(blocks) && j-i < most && blocks[j] == blocks[j-1]+1 {
			j++
		}
		if j-i > n {
			start, n = blocks[i], j-i
		}
		i = j
	}
	return start, n
}
