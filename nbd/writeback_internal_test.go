package nbd

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/job"
)

// TestFilesOnExt4 copies to files in a small file system of its own. The blocks of a range are chosen before it is
// written: the file must still hold only what was written, and a lack of space must be reported.
func TestFilesOnExt4(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	const size, mib = 64 << 20, 1 << 20
	folder := mounted(t, size)
	source := filepath.Join(t.TempDir(), "source")
	disk := make([]byte, 24*mib+511)
	for i := range disk {
		if i/(96<<10)%8 == 0 {
			disk[i] = byte(i*7) | 1
		}
	}

	t.Run("holes", func(t *testing.T) {
		if err := os.WriteFile(source, disk, 0o600); err != nil {
			t.Fatal(err)
		}
		target := filepath.Join(folder, "target")
		if err := copyTo(t, source, opened(t, target, int64(len(disk)))); err != nil {
			t.Fatal(err)
		}
		got := contentAt(t, target)
		if !bytes.Equal(got, disk) {
			t.Error("the bytes differ")
		}
		if have, most := allocated(t, target), int64(len(disk)/4); have > most {
			t.Errorf("an eighth of %d bytes is data, but %d are allocated", len(disk), have)
		}
		if err := os.Remove(target); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("chosen before", func(t *testing.T) {
		target := filepath.Join(folder, "target")
		open := opened(t, target, 4*mib)
		d := deviceOf(t, open)
		file := d.conns[0].(*fileConn).file
		if !file.ext4 {
			t.Fatal("the file is not known to lie on ext4")
		}
		file.chooseBlocks(mib+1, mib)
		if have := allocated(t, target); have < mib || have > mib+8192 {
			t.Errorf("%d bytes are allocated for one MiB", have)
		}
		if err := errors.Join(<-d.close(), open.Close()); err != nil {
			t.Fatal(err)
		}
		got := contentAt(t, target)
		if !bytes.Equal(got, make([]byte, 4*mib)) {
			t.Error("bytes that were not written are not zeros, or the file has another size")
		}
		if err := os.Remove(target); err != nil {
			t.Fatal(err)
		}
	})

	t.Run("no room", func(t *testing.T) {
		if err := os.WriteFile(source, bytes.Repeat([]byte("data"), size/2), 0o600); err != nil {
			t.Fatal(err)
		}
		err := copyTo(t, source, opened(t, filepath.Join(folder, "target"), size/2*4))
		if job.KindOf(err) != job.NoSpace || !errors.Is(err, unix.ENOSPC) {
			t.Errorf("it ended with %v, want that there is no space", err)
		}
	})
}

// mounted is the folder of an empty ext4 of size bytes.
func mounted(t *testing.T, size int) string {
	t.Helper()
	device, at := blockDevice(t, size, 512), t.TempDir()
	system(t, "mkfs.ext4", "-q", device)
	system(t, "mount", "-t", "ext4", device, at)
	t.Cleanup(func() { undo(t, "umount", at) })
	return at
}

func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
