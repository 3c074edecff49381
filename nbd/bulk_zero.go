package nbd

import "github.com/vmferry/vmferry/job"

// bulkZero is a part of the disk with many short holes. On a target that zeroes fast it is zeroed as a whole, and its
// data is written once that has been answered: one request takes the place of one for each hole.
type bulkZero struct {
	off, n      int64
	data, holes job.Extents
	begun       bool
}

// planBulkZeros plans what a server said about a range, both lists in the order of the disk: in parts that one request
// can zero.
func (p *planner) planBulkZeros(told job.Extent, data, holes job.Extents) {
	if !p.useBulkZeros {
		p.split(data, holes, false)
		return
	}
	for told.Length > 0 {
		part := told
		part.Length = min(told.Length, longestZero-told.Offset%longestZero)
		told = job.Extent{Offset: part.End(), Length: told.Length - part.Length}
		here := job.Extents{part}
		inside := bulkZero{off: part.Offset, n: part.Length, data: data.Within(here), holes: holes.Within(here)}
		if len(inside.holes) < bulkZeroHoles || 2*inside.data.Sum() > inside.n {
			p.split(inside.data, inside.holes, false)
			continue
		}
		p.ahead += inside.data.Sum()
		p.bulkZeros = append(p.bulkZeros, inside)
	}
}

// nextBulkZero hands out one that may be begun now.
func (p *planner) nextBulkZero() (plannedRange, bool) {
	for i := range min(len(p.bulkZeros), mostBulkZeros) {
		if z := &p.bulkZeros[i]; !z.begun {
			z.begun = true
			return plannedRange{off: z.off, n: z.n, zero: true, bulkZero: true}, true
		}
	}
	return plannedRange{}, false
}

// bulkZeroAnswered takes that the target has zeroed the one at off, or won't: then this one and all that were not begun
// are done in the ordinary way, and there will be no other. It returns the holes that are done.
func (p *planner) bulkZeroAnswered(off int64, zeroed bool) (done job.Extents) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.useBulkZeros = p.useBulkZeros && zeroed
	var left []bulkZero
	for _, z := range p.bulkZeros {
		mine := z.off == off
		if !mine && (z.begun || p.useBulkZeros) {
			left = append(left, z)
			continue
		}
		if mine && zeroed {
			done, z.holes = z.holes, nil
		}
		p.ahead -= z.data.Sum()
		p.split(z.data, z.holes, false)
	}
	p.bulkZeros = left
	return done
}
