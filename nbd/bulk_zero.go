package nbd

import "github.com/vmferry/vmferry/job"

// bulkZero is a part of the disk with many short holes (ADR 15). One request zeroes the part as a whole, on a target
// that zeroes fast, instead of one request for each hole. Its data is written after the target's answer.
type bulkZero struct {
	off, n      int64 // bytes
	data, holes job.Extents
	begun       bool // handed out
}

// planBulkZeros plans a range whose block status is known, in parts that one request can zero. Both lists are in the
// order of the disk.
func (p *planner) planBulkZeros(known job.Extent, data, holes job.Extents) {
	if !p.useBulkZeros {
		p.split(data, holes, false)
		return
	}
	for known.Length > 0 {
		part := known
		part.Length = min(known.Length, longestZero-known.Offset%longestZero)
		known = job.Extent{Offset: part.End(), Length: known.Length - part.Length}
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

// nextBulkZero hands out a bulk zero that may begin now.
func (p *planner) nextBulkZero() (plannedRange, bool) {
	for i := range min(len(p.bulkZeros), mostBulkZeros) {
		if z := &p.bulkZeros[i]; !z.begun {
			z.begun = true
			return plannedRange{off: z.off, n: z.n, zero: true, bulkZero: true}, true
		}
	}
	return plannedRange{}, false
}

// bulkZeroAnswered takes the target's answer to the bulk zero at off and returns the holes that are done. If the target
// has not zeroed it, it and all that have not begun are copied hole by hole, and no bulk zero follows.
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
