package nbd

import (
	"sync"
	"sync/atomic"

	"github.com/vmferry/vmferry/job"
)

// plannedRange is a part of the disk that is all of one sort.
type plannedRange struct {
	off, n   int64
	zero     bool  // reads as zeros; false: must be read
	quiet    bool  // outside what this round counts
	bulkZero bool  // zeros on which data will be written
	tries    uint8 // that failed
}

// planState is what next came to.
type planState uint8

const (
	planGot      planState = iota
	planLater              // the source has been asked; somebody will be woken
	planBulkZero           // likewise the target
	planEnd
)

// planner hands out what is to be done, in the order of the disk. It is safe for several threads.
type planner struct {
	block  int64 // ranges begin and end at multiples of this, but where what is to be done does not
	status bool  // ask the source what is data

	writing atomic.Bool // most of what was read last has to be written

	mu     sync.Mutex
	costly bool // zeros travel like data
	// chunks of data that were handed out, up to probes: small ones, by which is seen how far the source is
	probed       int
	request      int64               // a plannedRange of data never crosses a multiple of this,
	halves       bool                // and is half as long as long as what is read has to be written
	useBulkZeros bool                // many holes are zeroed at once
	bulkZeros    []bulkZero          // not answered yet, in the order of the disk
	unknown      job.Extents         // not looked at yet
	known        queue[plannedRange] // ahead
	ahead        int64               // bytes of data in known
	asking       bool
	window       int64
}

// zerosTravel makes zeros come in chunks no larger than those of data.
func (p *planner) zerosTravel() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.costly, p.useBulkZeros = true, false
}

// resize makes requests of that size from now on, or of half of it as long as what is read has to be written.
func (p *planner) resize(request int64, halves bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.request, p.halves = request, halves
}

// newPlanner plans the ranges of todo. allocated, if not nil, says where the source can have data.
func newPlanner(todo, allocated job.Extents, request, block int64, status bool) *planner {
	p := &planner{request: request, block: block, status: status, unknown: todo, window: statusWindow}
	if allocated == nil {
		return p
	}
	p.unknown = nil
	p.split(todo.Within(allocated), todo.Cut(allocated), true)
	return p
}

// next returns the next chunk of work.
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
	chunk := *head
	if chunk.zero {
		longest := int64(longestZero)
		if p.costly {
			longest = p.request
		}
		chunk.n = min(chunk.n, longest-chunk.off%longest)
	} else {
		request := p.request
		if p.halves && p.writing.Load() {
			request = max(p.block, request/2/p.block*p.block)
		}
		if p.probed < probes {
			request = min(request, max(p.block, probeSize))
			p.probed++
		}
		chunk.n = min(chunk.n, request-chunk.off%request)
		p.ahead -= chunk.n
	}
	head.off, head.n = head.off+chunk.n, head.n-chunk.n
	if head.n == 0 {
		p.known.pop()
	}
	return chunk, planGot
}

// done says whether nothing will be handed out any more.
func (p *planner) done() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known.len() == 0 && len(p.unknown) == 0 && !p.asking && len(p.bulkZeros) == 0
}

// question returns the window that the source should be asked about now; false if there is none.
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

// answer takes what the source said about the first bytes of a window of n bytes at off. No ranges at all means that it
// could not say: then the window is read. Short holes are read as well: that is cheaper than going around them.
func (p *planner) answer(off, n int64, ranges []plannedRange) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking = false
	end := off
	data := make(job.Extents, 0, len(ranges)/2+1)
	for _, pr := range ranges {
		if pr.n <= 0 || pr.off != end || end == off+n {
			break // nonsense from here on, or about what was not asked; it will be asked again, or read
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
	told := job.Extents{{Offset: off, Length: end - off}}
	data = data.Merge(shortestHole).Align(p.block, end).Within(told)
	p.planBulkZeros(told[0], data, told.Cut(data))
	p.unknown = p.unknown.Cut(told)
}

// split learns both lists, in the order of the disk.
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

// addKnown appends, and joins with what it continues.
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
