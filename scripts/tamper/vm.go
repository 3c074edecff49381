package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/job"
)

// machine is a VM. All writes of its guest go through it, so it knows the bytes of the disks, and what was written
// when.
type machine struct {
	stack *stack
	name  string

	mu    sync.Mutex
	disks []*vdisk
}

// vdisk is a disk of a VM.
type vdisk struct {
	id     job.DiskID
	bytes  []byte      // as the guest sees them now
	filled job.Extents // with data, before the first write of the guest
	writes job.Extents // of the guest, in their order
	frozen []int       // for each round that was begun: how many writes came before it
}

// trackUnit is the size in bytes of the blocks in which the rehearsal vCenter tracks changes.
const trackUnit = 64 << 10

// imageOf is the path of a VM's disk.
func imageOf(dir, vm string, disk int) string {
	return filepath.Join(dir, "i", fmt.Sprintf("%s-%d.raw", vm, disk))
}

// content returns the bytes of a disk before the guest writes, and where they are.
func content(seed uint64, size int64) ([]byte, job.Extents) {
	b := make([]byte, size)
	key := [32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24), byte(seed >> 32)}
	source := rand.NewChaCha8(key)
	var filled job.Extents
	for off := int64(0); off < size; off += trackUnit {
		if source.Uint64()%10 < 4 || off == 0 {
			end := min(off+trackUnit, size)
			_, _ = source.Read(b[off:end]) // never fails
			filled = append(filled, job.Extent{Offset: off, Length: end - off})
		}
	}
	return b, filled.Merge(0)
}

// contentSeed gives each disk of each VM bytes of its own.
func contentSeed(p plan, vm, disk int) uint64 { return p.seed<<8 + uint64(vm)<<4 + uint64(disk) }

// makeImages writes the images of a plan's VMs. Where they hold no data they have holes.
func makeImages(dir string, p plan) error {
	for i, name := range p.names {
		for d, b := range p.benches {
			data, filled := content(contentSeed(p, i, d), b.size)
			if err := writeImage(imageOf(dir, name, d), data, filled); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeImage(path string, data []byte, where job.Extents) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path, int64(len(data))); err != nil {
		return err
	}
	return writeAt(path, data, where)
}

// newMachine is the plan's VM of that index.
func newMachine(st *stack, p plan, vm int) *machine {
	m := &machine{stack: st, name: p.names[vm]}
	for d, b := range p.benches {
		data, filled := content(contentSeed(p, vm, d), b.size)
		m.disks = append(m.disks, &vdisk{id: diskID(d), bytes: data, filled: filled})
	}
	return m
}

func diskID(i int) job.DiskID { return job.DiskID(fmt.Sprint("disk-", 2000+i)) }

// begin notes that a round begins, and returns the bytes of the disks, which its snapshot will hold: until the snapshot
// exists the guest must not write.
func (m *machine) begin() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out [][]byte
	for _, d := range m.disks {
		d.frozen = append(d.frozen, len(d.writes))
		out = append(out, slices.Clone(d.bytes))
	}
	return out
}

// write writes to a disk as the guest would.
func (m *machine) write(ctx context.Context, disk int, r *rand.Rand) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.disks[disk]
	length := 512 * (1 + r.Int64N(128))
	off := r.Int64N((int64(len(d.bytes))-length)/512) * 512
	text := make([]byte, length)
	for i := range text {
		text[i] = byte(r.Uint32())
	}
	if err := m.stack.vcenterAsk(ctx, "POST", "write", map[string]any{
		"vm": m.name, "disk": d.id, "offset": off, "data_base64": base64.StdEncoding.EncodeToString(text),
	}, nil); err != nil {
		return err
	}
	copy(d.bytes[off:], text)
	d.writes = append(d.writes, job.Extent{Offset: off, Length: length})
	return nil
}

// check compares what is known of the disks with what the vCenter has. They differ only if this program is wrong.
func (m *machine) check(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, d := range m.disks {
		live, err := m.stack.image(ctx, m.name, d.id)
		if err != nil {
			return err
		}
		if !bytes.Equal(live, d.bytes) {
			return fmt.Errorf("%s of %s: the vCenter has other bytes than its guest wrote", d.id, m.name)
		}
	}
	return nil
}

// moved returns what a round moves of a disk: of a full round what is allocated, of an incremental one what was written
// since some earlier round. frozen is the index of the round's own entry in vdisk.frozen, total the round's number of
// bytes. It is false if no such areas have that sum. Of two earlier rounds with the same sum the areas are the same,
// because those since the older one hold those since the newer one.
func (m *machine) moved(disk, frozen int, mode job.Mode, total int64) (job.Extents, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := m.disks[disk]
	size := int64(len(d.bytes))
	now := d.frozen[frozen]
	if mode == job.Full {
		all := append(slices.Clone(d.filled), d.writes[:now]...).Merge(0).Align(trackUnit, size)
		return all, all.Sum() == total
	}
	for _, since := range d.frozen[:frozen] {
		areas := d.writes[since:now].Merge(0).Align(trackUnit, size)
		if areas.Sum() == total {
			return areas, true
		}
	}
	return nil, false
}
