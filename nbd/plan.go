package nbd

import (
	"sync"
	"sync/atomic"

	"github.com/vmferry/vmferry/job"
)

// plannedRange is a part of the disk in bytes that is all data or all zeros.
type plannedRange struct {
	off, n   int64
	zero     bool  // reads as zeros; else the source must be read
	quiet    bool  // outside what this round counts
	bulkZero bool  // zeroed as a whole; its data is written afterwards
	tries    uint8 // that failed
}

// planState is the outcome of next.
type planState uint8

const (
	planGot      planState = iota
	planLater              // waiting for block status of the source; its answer wakes the threads
	planBulkZero           // waiting for a bulk zero at the target; its answer wakes the threads
	planEnd
)

// planner hands out planned ranges, in the order of the disk. It is safe for several threads.
type planner struct {
	block  int64 // planned ranges begin and end at multiples of this, or where the ranges to copy do
	status bool  // the source is asked for block status

	writing atomic.Bool // most of what was read last has to be written

	mu           sync.Mutex
	costly       bool                // zeros travel like data
	probed       int                 // small chunks handed out at first, up to probes: they show how far the source is
	request      int64               // a planned range of data never crosses a multiple of this
	halves       bool                // while writing is set, a planned range of data has at most half of request
	useBulkZeros bool                // many short holes are zeroed at once
	bulkZeros    []bulkZero          // not answered yet, in the order of the disk
	unknown      job.Extents         // data or zeros, the source has not said yet
	known        queue[plannedRange] // to hand out next
	ahead        int64               // bytes of data in known and bulkZeros
	asking       bool                // the source has been asked for block status and has not answered
	window       int64               // bytes of the next request for block status
}

// zerosTravel makes planned ranges of zeros no longer than those of data, and plans no more bulk zeros: the target
// can't make zeros itself.
func (p *planner) zerosTravel() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.costly, p.useBulkZeros = true, false
}

// resize sets the size of requests from now on. With halves, it is half of that while what is read has to be written.
func (p *planner) resize(request int64, halves bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.request, p.halves = request, halves
}

// newPlanner plans the ranges of todo. allocated, if not nil, are the ranges of the source that can hold data.
func newPlanner(todo, allocated job.Extents, request, block int64, status bool) *planner {
	p := &planner{request: request, block: block, status: status, unknown: todo, window: statusWindow}
	if allocated == nil {
		return p
	}
	p.unknown = nil
	p.split(todo.Within(allocated), todo.Cut(allocated), true)
	return p
}

// next hands out the next planned range. It is valid with planGot.
func (p *planner) next() (plannedRange, planState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known.len() == 0 && len(p.unknown) > 0 && !p.worthAsking() && !p.asking {
		p.addKnown(plannedRange{off: p.unknown[0].Offset, n: p.unknown[0].Length})
		p.unknown = p.unknown[1:]
	}
	if pr, ok := p.nextBulkZero(); ok {
		return pr, planGot
	}
	if p.known.len() == 0 {
		switch {
		case len(p.bulkZeros) > 0:
			return plannedRange{}, planBulkZero
		case len(p.unknown) > 0 || p.asking:
			return plannedRange{}, planLater
		default:
			return plannedRange{}, planEnd
		}
	}
	head := p.known.first()
	next := *head
	if next.zero {
		longest := int64(longestZero)
		if p.costly {
			longest = p.request
		}
		next.n = min(next.n, longest-next.off%longest)
	} else {
		request := p.request
		if p.halves && p.writing.Load() {
			request = max(p.block, request/2/p.block*p.block)
		}
		if p.probed < probes {
			request = min(request, max(p.block, probeSize))
			p.probed++
		}
		next.n = min(next.n, request-next.off%request)
		p.ahead -= next.n
	}
	head.off, head.n = head.off+next.n, head.n-next.n
	if head.n == 0 {
		p.known.pop()
	}
	return next, planGot
}

// done says whether the planner has handed out everything.
func (p *planner) done() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known.len() == 0 && len(p.unknown) == 0 && !p.asking && len(p.bulkZeros) == 0
}

// question returns the window of which the block status should be asked now. ok is false if there is none.
func (p *planner) question() (off, n int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking || p.ahead > plannedAhead || !p.worthAsking() {
		return 0, 0, false
	}
	p.asking = true
	head := p.unknown[0]
	n = min(head.Length, p.window)
	if n < head.Length {
		n -= (head.Offset + n) % p.block
	}
	return head.Offset, n, true
}

func (p *planner) worthAsking() bool {
	return p.status && len(p.unknown) > 0 && p.unknown[0].Length >= statusWorthwhile
}

// answer takes the block status of the first bytes of a window of n bytes at off. Without ranges, the whole window is
// read. Short holes are read as well: that is cheaper than going around them.
func (p *planner) answer(off, n int64, ranges []plannedRange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking = false
	end := off
	data := make(job.Extents, 0, len(ranges)/2+1)
	for _, pr := range ranges {
		if pr.n <= 0 || pr.off != end || end == off+n {
			break // wrong from here on, or outside the window: asked again later, or read
		}
		length := min(pr.n, off+n-end)
		if !pr.zero {
			data = append(data, job.Extent{Offset: pr.off, Length: length})
		}
		end += length
	}
	if end < off+n {
		end -= end % p.block
	}
	if end <= off {
		end = off + n
		data = job.Extents{{Offset: off, Length: n}}
	}
	if len(ranges) <= 8 && end == off+n {
		p.window = min(2*p.window, statusWindowMost)
	}
	answered := job.Extents{{Offset: off, Length: end - off}}
	data = data.Merge(shortestHole).Align(p.block, end).Within(answered)
	p.planBulkZeros(answered[0], data, answered.Cut(data))
	p.unknown = p.unknown.Cut(answered)
}

// split adds the ranges of both lists to known, in the order of the disk.
func (p *planner) split(data, empty job.Extents, quiet bool) {
	for len(data)+len(empty) > 0 {
		if len(empty) == 0 || len(data) > 0 && data[0].Offset < empty[0].Offset {
			p.addKnown(plannedRange{off: data[0].Offset, n: data[0].Length})
			data = data[1:]
			continue
		}
		p.addKnown(plannedRange{off: empty[0].Offset, n: empty[0].Length, zero: true, quiet: quiet})
		empty = empty[1:]
	}
}

// addKnown appends a range to known, or extends the last one that it continues.
func (p *planner) addKnown(pr plannedRange) {
	if !pr.zero {
		p.ahead += pr.n
	}
	if p.known.len() > 0 {
		if last := p.known.last(); last.off+last.n == pr.off && last.zero == pr.zero && last.quiet == pr.quiet {
			last.n += pr.n
			return
		}
	}
	p.known.push(pr)
}
