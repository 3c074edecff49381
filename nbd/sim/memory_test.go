package sim_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/nbd/sim"
)

var (
	_ sim.Backend = (*sim.Memory)(nil)
	_ sim.Backend = (*sim.File)(nil)
)

// TestDisksBehaveAsAnArray does the same to a disk and to an array, with a crash now and then.
func TestDisksBehaveAsAnArray(t *testing.T) {
	const size = 150*kib + 77
	path := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(path, make([]byte, size), 0o600))
	file, err := sim.OpenFile(path, false)
	must(t, err)
	t.Cleanup(func() { must(t, file.Close()) })
	for name, disk := range map[string]sim.Backend{
		"memory": sim.NewMemory(size), "cache": sim.NewVolatileMemory(size), "file": file,
	} {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			now, durable := make([]byte, size), make([]byte, size)
			for range 300 {
				off := random.Int64N(size)
				n := 1 + random.Int64N(min(size-off, 100*kib))
				switch random.IntN(8) {
				case 0, 1, 2:
					p := bytes.Repeat([]byte{byte(1 + random.IntN(255))}, int(n))
					put(disk, off, p)
					copy(now[off:], p)
				case 3:
					must(t, disk.Zero(off, n, true))
					clear(now[off : off+n])
				case 4:
					must(t, disk.Zero(off, n, false))
					clear(now[off : off+n])
				case 5:
					must(t, disk.Flush())
					copy(durable, now)
				case 6:
					m, ok := disk.(*sim.Memory)
					if !ok {
						break
					}
					p := bytes.Repeat([]byte{byte(1 + random.IntN(255))}, int(n))
					if random.IntN(2) == 0 {
						clear(p)
						must(t, m.ZeroThrough(off, n, true))
					} else {
						must(t, m.WriteThrough(p, off))
					}
					copy(now[off:], p)
					copy(durable[off:], p)
				case 7:
					if m, ok := disk.(*sim.Memory); ok && name == "cache" && random.IntN(10) == 0 {
						m.Crash()
						copy(now, durable)
					}
				}
				if !bytes.Equal(get(disk, 0, size), now) {
					t.Fatal("the disk holds other bytes")
				}
				x, err := disk.Extents(off, n)
				must(t, err)
				must(t, x.Check(size))
				rest := bytes.Clone(now)
				for _, e := range x {
					clear(rest[e.Offset:e.End()])
				}
				if !bytes.Equal(rest[off:off+n], make([]byte, n)) {
					t.Fatal("there is data outside of the extents")
				}
			}
		})
	}
}

func TestMemoryRefusesWhatIsOutside(t *testing.T) {
	m := sim.NewMemory(mib)
	_, errRead := m.ReadAt(make([]byte, 2), mib-1)
	_, errWrite := m.WriteAt(make([]byte, 2), mib-1)
	_, errExtents := m.Extents(mib, 1)
	for i, err := range []error{
		errRead, errWrite, errExtents, m.Zero(-1, 1, true),
		m.WriteThrough(make([]byte, 1), mib), m.ZeroThrough(mib, 1, true),
	} {
		if err == nil {
			t.Errorf("case %d: no error", i)
		}
	}
}

func TestMemoryIsTakenOnlyForData(t *testing.T) {
	m := sim.NewMemory(1 << 50)
	put(m, 1<<49, []byte{1})
	must(t, m.Zero(1<<48, 1<<30, true))
	x, err := m.Extents(1<<49-1, 1<<20)
	must(t, err)
	if got := fmt.Sprint(x); got != "[562949953421312+65536]" {
		t.Errorf("extents %s", got)
	}
	must(t, m.Zero(1<<49, 64*kib, true))
	if x, err = m.Extents(1<<49-1, 1<<20); err != nil || len(x) != 0 {
		t.Errorf("extents %v, %v", x, err)
	}
	must(t, m.Zero(0, 64*kib, false))
	if x, err = m.Extents(0, 1<<20); err != nil || len(x) != 1 {
		t.Errorf("extents %v, %v", x, err)
	}
}
