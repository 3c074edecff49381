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

// Digests are sums over the bytes that a copy has read from one disk. Verify compares the target with them. They take
// at most 1 MiB, however large the disk. Reading them is safe once the copy has returned.
//
// The disk is divided into units of 4 KiB. Each unit that is not all zeros is hashed by xxh3-128, and the hash is mixed
// with the unit's place. The hashes are added up for each cell of the disk. So a sum depends neither on the order nor
// on the size of requests. Zeros add nothing, whether they were read or reported by block status.
type Digests struct {
	capacity int64 // bytes of the disk
	cell     int64 // bytes, a power of two
	cells    []sum
	scope    job.Extents // what was copied; set when the copy has ended
	// An earlier attempt read some of the bytes, from an export that may have been another disk; set with scope.
	sourceUnverified bool
}

// sum is a sum of hashes: each half modulo 2^64.
type sum struct{ high, low uint64 }

// cellSum is the sum of a part of one cell.
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

// sums hashes the bytes b at off. They begin and end where units do, or where the disk or the copied ranges do. It may
// be called from any goroutine.
func (d *Digests) sums(off int64, b []byte) []cellSum { return d.appendSums(nil, off, b) }

// appendSums appends to out what sums returns. Bytes that are known to be zeros may be left out.
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

// placed mixes a hash with its offset, so that units that changed places are noticed.
func placed(h xxh3.Uint128, off uint64) sum {
	const odd1, odd2 = 0x9e3779b97f4a7c15, 0xd6e8feb86659fd93
	high, low := bits.Mul64(h.Hi^(off+odd1)*odd2, odd1|1)
	mixed := (h.Lo ^ off*odd1) * odd2
	return sum{high: high ^ low ^ mixed, low: mixed ^ mixed>>32 ^ low}
}

func (s *sum) plus(t sum) { s.high, s.low = s.high+t.high, s.low+t.low }

// add adds sums to their cells. Each unit must be added once.
func (d *Digests) add(sums []cellSum) {
	if d == nil {
		return
	}
	for _, s := range sums {
		d.cells[s.cell].plus(s.sum)
	}
}

// encode appends the form that a checkpoint keeps.
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

// clone returns a copy that does not change with d.
func (d *Digests) clone() *Digests {
	if d == nil {
		return nil
	}
	return &Digests{d.capacity, d.cell, slices.Clone(d.cells), d.scope, d.sourceUnverified}
}

// extent is the place of a cell on the disk.
func (d *Digests) extent(cell int) job.Extent {
	off := int64(cell) * d.cell
	return job.Extent{Offset: off, Length: min(d.cell, d.capacity-off)}
}

// sampleCells chooses a few cells that lie in x, a normal list: of the cells with data, and of those that hold zeros
// alone, the first, the last, and others by chance. Cells with data lie in x as a whole, for few requests read them;
// without such cells it takes cells that lie in x in part.
func (d *Digests) sampleCells(x job.Extents) (data, zeros []int) {
	if d == nil {
		return nil, nil
	}
	var parts []int
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
	return some(data, int(max(1, min(recheckCells, recheckBytes/d.cell)))), some(zeros, recheckZeros)
}

// some keeps at most so many of a list: the first, the last, and others by chance.
func some(list []int, most int) []int {
	for k := range min(most, len(list)) {
		other := len(list) - 1 // the second is the last one
		if k != 1 {
			other = k + rand.IntN(len(list)-k) //nolint:gosec // the places are no secret
		}
		if k > 0 {
			list[k], list[other] = list[other], list[k]
		}
	}
	return list[:min(most, len(list))]
}

// differing returns the cells whose sums differ.
func (d *Digests) differing(other *Digests) job.Extents {
	var x job.Extents
	for i, s := range d.cells {
		if s != other.cells[i] {
			x = append(x, job.Extent{Offset: int64(i) * d.cell, Length: d.cell})
		}
	}
	return x.Merge(0)
}

// String is one digest over all cells. It depends neither on the order nor on the size of requests.
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
