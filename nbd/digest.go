package nbd

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/vmferry/vmferry/job"
)

// Digests are sums over what a copy read, for comparing the target with. Their memory is at most 1 MiB, however large
// the disk. They are those of one disk; reading them is safe once the copy has returned.
//
// The disk is seen in units of 4 KiB. Each unit that is not all zeros is hashed by xxh3-128, the hash is mixed with the
// unit's place, and all of them are added up for each cell of the disk. So a sum depends neither on the order nor on
// the size of requests, and zeros count for nothing, whether they were read or known from a map.
type Digests struct {
	capacity int64 // bytes of the disk
	cell     int64 // bytes, a power of two
	cells    []sum
	scope    job.Extents // what was copied; set when the copy has ended
	// some of it was read by an earlier attempt, of an export that may be another disk; likewise
	sourceUnverified bool
}

// sum is added to by parts, each of them modulo 2^64.
type sum struct{ high, low uint64 }

// cellSum is what a part of a cell adds to it.
type cellSum struct {
	cell int
	sum
}

const (
	mostCells    = 64 << 10
	smallestCell = 1 << 20 // bytes
	sumSize      = 16      // bytes
)

func newDigests(capacity int64) *Digests {
	cell := int64(smallestCell)
	for capacity/cell >= mostCells {
		cell *= 2
	}
	return &Digests{capacity: capacity, cell: cell, cells: make([]sum, (capacity+cell-1)/cell)}
}

// sums hashes the bytes at off, which begin and end where units do, or where the disk or what is copied sums it does. It
// may be called at any time.
func (d *Digests) sums(off int64, b []byte) []cellSum { return d.appendSums(nil, off, b) }

// appendSums appends what of returns. Bytes that are known to be zeros can be left out.
func (d *Digests) appendSums(out []cellSum, off int64, b []byte) []cellSum {
	if d == nil {
		return nil
	}
	if out == nil {
		out = make([]cellSum, 0, 1+int64(len(b))/d.cell)
	}
	for len(b) > 0 {
		n := min(int64(len(b)), zeroUnit-off%zeroUnit)
		if cell := min(int(off/d.cell), len(d.cells)-1); len(out) == 0 || out[len(out)-1].cell != cell {
			out = append(out, cellSum{cell: cell})
		}
		if unit := b[:n]; !isZero(unit) {
			out[len(out)-1].plus(placed(xxh3.Hash128(unit), uint64(off)))
		}
		b, off = b[n:], off+n
	}
	return out
}

// placed mixes a hash with where it belongs, so that units that changed places are noticed.
func placed(h xxh3.Uint128, off uint64) sum {
	const odd1, odd2 = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93
	high, low := bits.Mul64(h.Hi^(off+odd1)*odd2, odd1|1)
	mixed := (h.Lo ^ off*odd1) * odd2
	return sum{high: high ^ low ^ mixed, low: mixed ^ mixed>>32 ^ low}
}

func (s *sum) plus(t sum) { s.high, s.low = s.high+t.high, s.low+t.low }

// add counts sums in; each unit must be counted once.
func (d *Digests) add(sums []cellSum) {
	if d == nil {
		return
	}
	for _, s := range sums {
		d.cells[s.cell].plus(s.sum)
	}
}

// encode appends what a checkpoint keeps.
func (d *Digests) encode(b []byte) []byte {
	if d == nil {
		return binary.AppendUvarint(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(d.cells)))
	for _, s := range d.cells {
		b = binary.BigEndian.AppendUint64(b, s.high)
		b = binary.BigEndian.AppendUint64(b, s.low)
	}
	return b
}

func (d *Digests) clone() *Digests {
	if d == nil {
		return nil
	}
	return &Digests{d.capacity, d.cell, slices.Clone(d.cells), d.scope, d.sourceUnverified}
}

// extent is where a cell is on the disk.
func (d *Digests) extent(cell int) job.Extent {
	off := int64(cell) * d.cell
	return job.Extent{Offset: off, Length: min(d.cell, d.capacity-off)}
}

// sampleCells chooses a few cells that lie in x, a normal list: the first, the last, and others by chance. Cells that hold
// anything but zeros are preferred, for zeros look alike on all disks. Of those the ones that lie in it as a whole,
// which are read in few requests; if there are none, those of which a part does.
func (d *Digests) sampleCells(x job.Extents) []int {
	if d == nil {
		return nil
	}
	var data, parts, zeros []int
	next := 0 // not looked at yet
	for _, e := range x {
		for i := max(next, int(e.Offset/d.cell)); i < len(d.cells) && d.extent(i).Offset < e.End(); i++ {
			next = i + 1
			switch cell := d.extent(i); {
			case d.cells[i] == (sum{}):
				zeros = append(zeros, i)
			case e.Offset <= cell.Offset && cell.End() <= e.End():
				data = append(data, i)
			default:
				parts = append(parts, i)
			}
		}
	}
	if len(data) == 0 {
		data = parts
	}
	if len(data) == 0 {
		data = zeros
	}
	most := int(max(1, min(recheckCells, recheckBytes/d.cell)))
	for k := range min(most, len(data)) {
		other := len(data) - 1 // the second is the last one
		if k != 1 {
			other = k + rand.IntN(len(data)-k) //nolint:gosec // nobody gains from knowing the places
		}
		if k > 0 {
			data[k], data[other] = data[other], data[k]
		}
	}
	return data[:min(most, len(data))]
}

// differing names the cells whose sums are others.
func (d *Digests) differing(other *Digests) job.Extents {
	var x job.Extents
	for i, s := range d.cells {
		if s != other.cells[i] {
			x = append(x, job.Extent{Offset: int64(i) * d.cell, Length: d.cell})
		}
	}
	return x.Merge(0)
}

// String is one digest over all of it. It depends neither on the order nor the size of requests.
func (d *Digests) String() string {
	if d == nil {
		return ""
	}
	var all sum
	for _, s := range d.cells {
		all.plus(s)
	}
	return fmt.Sprintf("xxh3-sum:%016x%016x", all.high, all.low)
}
