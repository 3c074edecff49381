package nbd

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// TestABlockDeviceKeepsEveryRangeThatSharesASector writes ranges at once that end and begin within the same sector and
// the same page: writes past the page cache must survive writes through it.
func TestABlockDeviceKeepsEveryRangeThatSharesASector(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	const size, writers = 8 << 20, 8
	for _, sector := range []int{512, 4096} {
		t.Run(fmt.Sprintf("sectors of %d bytes", sector), func(t *testing.T) {
			path := blockDevice(t, size, sector)
			target := opened(t, path, 0)
			d := deviceOf(t, target)
			file := d.conns[0].(*fileConn).file
			if file.direct == nil {
				t.Fatal("the device has no writes past the page cache")
			}
			mem, err := newArena(size)
			if err != nil {
				t.Fatal(err)
			}
			random := rand.New(rand.NewChaCha8([32]byte{byte(sector >> 8)}))
			want := mem.take(size)
			for i := range want {
				want[i] = byte(random.Uint32())
			}
			ranges := make(chan [2]int, size)
			for at := 0; at < size; {
				end := at + 1 + random.IntN(4*sector)
				if random.IntN(3) > 0 {
					end = (end + sector - 1) / sector * sector
				}
				end = min(end, size)
				ranges <- [2]int{at, end}
				at = end
			}
			close(ranges)
			var group errgroup.Group
			for range writers {
				group.Go(func() error {
					for r := range ranges {
						if err := file.write(want[r[0]:r[1]], int64(r[0])); err != nil {
							return fmt.Errorf("write bytes %d to %d: %w", r[0], r[1], err)
						}
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
			if err := unix.Fdatasync(file.fd); err != nil {
				t.Fatal(err)
			}
			if err := <-d.close(); err != nil {
				t.Fatal(err)
			}
			got := contentAt(t, path)
			if !bytes.Equal(got, want) {
				t.Error("the device does not hold what was written")
			}
			if err := mem.free(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestABlockDeviceHoldsDisksThatEndWithinASector(t *testing.T) {
	if testing.Short() {
		t.Skip("long: make it runs it")
	}
	const size = 4 << 20
	for _, sector := range []int{512, 4096} {
		for _, n := range []int{1, 511, 512, 513, 4095, 4097, 1<<20 + 1, 3<<20 - 512} {
			t.Run(fmt.Sprintf("%d bytes in sectors of %d", n, sector), func(t *testing.T) {
				want := make([]byte, n)
				for i := range want {
					if i/(96<<10)%2 == 0 { // and zeros in between
						want[i] = byte(i*7) | 1
					}
				}
				src, dst := filepath.Join(t.TempDir(), "source"), blockDevice(t, size, sector)
				if err := os.WriteFile(src, want, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := copyTo(t, src, opened(t, dst, 0)); err != nil {
					t.Fatal(err)
				}
				got := contentAt(t, dst)
				if !bytes.Equal(got[:n], want) {
					t.Error("the bytes of the disk differ")
				}
				if !bytes.Equal(got[n:], rubbish(size)[n:]) {
					t.Error("bytes past the disk were touched")
				}
			})
		}
	}
}

func rubbish(n int) []byte { return bytes.Repeat([]byte("rubbish "), n/8) }

// blockDevice is a loop device full of rubbish.
func blockDevice(t *testing.T, size, sector int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("losetup needs root")
	}
	store := filepath.Join(t.TempDir(), "store")
	if err := os.WriteFile(store, rubbish(size), 0o600); err != nil {
		t.Fatal(err)
	}
	device := system(t, "losetup", "--find", "--show", "--sector-size", fmt.Sprint(sector), store)
	t.Cleanup(func() { undo(t, "losetup", "--detach", device) })
	return device
}

// system runs a program and returns its output. If the program cannot be run, or fails, it skips the test; with CI=true
// it fails the test.
func system(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatalf("%s %q: %v: %s", program, args, err, out)
	case err != nil:
		t.Skipf("this needs %s %q: %v: %s", program, args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// undo runs a program that undoes what system did.
func undo(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %q: %v: %s", program, args, err, out)
	}
}

func contentAt(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
