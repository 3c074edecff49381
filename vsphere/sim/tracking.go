package sim

import (
	"crypto/rand"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/vmferry/vmferry/job"
)

// tracking is what an ESXi host keeps in a disk's tracking file. The disk's lock guards it.
type tracking struct {
	on        bool
	epoch     string   // the part of a change ID before the slash; a new one at each start of tracking
	intervals []blocks // intervals[n]: what was written between change ID n and n+1; the last is still open
}

// restart drops everything that was tracked, as a power failure of the host does.
func (t *tracking) restart(capacity int64) {
	t.epoch = newEpoch()
	t.intervals = []blocks{newBlocks(capacity)}
}

// newEpoch is random and looks as that of a vCenter: 52 de c0 d9 b9 43 9d 10-61 d5 4c 1b e9 7b 65 63.
func newEpoch() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	half := func(b []byte) string {
		parts := make([]string, len(b))
		for i := range b {
			parts[i] = hex.EncodeToString(b[i : i+1])
		}
		return strings.Join(parts, " ")
	}
	b[0] = 0x52
	return half(b[:8]) + "-" + half(b[8:])
}

// written notes a write to the bytes [from, to).
func (t *tracking) written(from, to int64) {
	if t.on {
		t.intervals[len(t.intervals)-1].addBytes(from, to)
	}
}

// freeze ends the open interval and returns what is known at this instant.
func (t *tracking) freeze(allocated blocks, capacity int64) *frozen {
	f := &frozen{capacity: capacity, allocated: allocated.clone(), on: t.on}
	if !t.on {
		return f
	}
	f.epoch, f.intervals = t.epoch, slices.Clip(t.intervals)
	f.changeID = t.epoch + "/" + strconv.Itoa(len(t.intervals))
	t.intervals = append(t.intervals, newBlocks(capacity))
	return f
}

// frozen is what tracking knew at the instant of a snapshot. Only its cache changes, under the disk's lock.
type frozen struct {
	capacity  int64
	on        bool
	epoch     string
	changeID  string
	intervals []blocks
	allocated blocks
	cache     map[string]blocks // answers to earlier queries, by change ID
}

// since is the set of blocks written after the change ID, or for "*" of all that are allocated. It is false if the
// change ID is not known.
func (f *frozen) since(changeID string) (blocks, bool) {
	if !f.on {
		return nil, false
	}
	if changeID == "*" {
		return f.allocated, true
	}
	if s, ok := f.cache[changeID]; ok {
		return s, true
	}
	epoch, number, _ := strings.Cut(changeID, "/")
	n, err := strconv.Atoi(number)
	if err != nil || epoch != f.epoch || n < 0 || n > len(f.intervals) {
		return nil, false
	}
	s := newBlocks(f.capacity)
	for _, interval := range f.intervals[n:] {
		s.unite(interval)
	}
	if f.cache == nil {
		f.cache = map[string]blocks{}
	}
	f.cache[changeID] = s
	return s, true
}

// page lists areas of the set from offset on, as many as most, and returns the offset up to which the answer reaches.
// With gaps, a stretch without areas is answered by an empty page of its own.
func (f *frozen) page(set blocks, offset int64, most int, gaps bool) (areas job.Extents, end int64) {
	last := (f.capacity + blockSize - 1) / blockSize
	for b := offset / blockSize; ; {
		first := set.next(b, last, true)
		if gaps && len(areas) == 0 && first*blockSize > offset {
			return nil, min(first*blockSize, f.capacity)
		}
		if len(areas) == most && first < last || gaps && len(areas) > 0 {
			return areas, min(b*blockSize, f.capacity)
		}
		if first == last {
			return areas, f.capacity
		}
		b = set.next(first, last, false)
		from, to := max(first*blockSize, offset), min(b*blockSize, f.capacity)
		areas = append(areas, job.Extent{Offset: from, Length: to - from})
	}
}
