package job

import (
	"fmt"
	"slices"
)

// Extent is a range of bytes of one disk: [Offset, Offset+Length).
type Extent struct {
	Offset int64 `json:"offset"` // bytes from the start of the disk; at least 0
	Length int64 `json:"length"` // bytes; more than 0 in a valid extent
}

// End is the first byte after the extent.
func (e Extent) End() int64 { return e.Offset + e.Length }

func (e Extent) String() string { return fmt.Sprintf("%d+%d", e.Offset, e.Length) }

// Extents is a list of extents. A normal list is sorted by offset and has no extents that overlap, touch or are empty.
// Merge makes a normal list of any list. All other functions take and return normal lists. None changes its arguments.
type Extents []Extent

// Check refuses a list that does not fit a disk of capacity bytes: an extent is negative, empty, or ends beyond the
// disk. The error is of kind Invalid and names the extent. The list need not be normal.
func (x Extents) Check(capacity int64) error {
	for i, e := range x {
		switch {
		case e.Offset < 0 || e.Length <= 0:
			return Errorf("check extents", Invalid, "", "extent %d (%v) has a negative offset or no length", i, e)
		case e.Offset > capacity || e.Length > capacity-e.Offset:
			return Errorf("check extents", Invalid, "", "extent %d (%v) ends beyond the disk's %d bytes", i, e,
				capacity)
		}
	}
	return nil
}

// Merge sorts the list and joins extents that overlap, touch, or lie at most gap bytes apart.
func (x Extents) Merge(gap int64) Extents { return slices.Clone(x).merge(gap) }

// merge is Merge without a copy: it changes x.
func (x Extents) merge(gap int64) Extents {
	s := slices.DeleteFunc(x, func(e Extent) bool { return e.Length <= 0 })
	slices.SortFunc(s, func(a, b Extent) int {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		default:
			return 0
		}
	})
	out := s[:0]
	for _, e := range s {
		if n := len(out); n > 0 && e.Offset-out[n-1].End() <= gap {
			out[n-1].Length = max(out[n-1].End(), e.End()) - out[n-1].Offset
			continue
		}
		out = append(out, e)
	}
	return out
}

// Sum is the number of bytes in the list.
func (x Extents) Sum() (n int64) {
	for _, e := range x {
		n += e.Length
	}
	return n
}

// Cut returns the bytes that are in x and not in y.
func (x Extents) Cut(y Extents) Extents {
	var out Extents
	j := 0
	for _, e := range x {
		at := e.Offset
		for j < len(y) && y[j].End() <= at {
			j++
		}
		for k := j; k < len(y) && y[k].Offset < e.End(); k++ {
			if y[k].Offset > at {
				out = append(out, Extent{at, y[k].Offset - at})
			}
			at = max(at, y[k].End())
		}
		if at < e.End() {
			out = append(out, Extent{at, e.End() - at})
		}
	}
	return out
}

// Within returns the bytes that are in both lists.
func (x Extents) Within(y Extents) Extents {
	var out Extents
	i, j := 0, 0
	for i < len(x) && j < len(y) {
		from, to := max(x[i].Offset, y[j].Offset), min(x[i].End(), y[j].End())
		if from < to {
			out = append(out, Extent{from, to - from})
		}
		if x[i].End() < y[j].End() {
			i++
		} else {
			j++
		}
	}
	return out.merge(0)
}

// Align widens every extent to multiples of align bytes, but not beyond capacity, and merges.
func (x Extents) Align(align, capacity int64) Extents {
	out := make(Extents, 0, len(x))
	for _, e := range x {
		from := e.Offset / align * align
		to := min((e.End()+align-1)/align*align, capacity)
		out = append(out, Extent{from, to - from})
	}
	return out.merge(0)
}

// Whole is the list of all bytes of a disk of that capacity.
func Whole(capacity int64) Extents {
	if capacity <= 0 {
		return nil
	}
	return Extents{{0, capacity}}
}
