package nbd

import (
	"sync"
	"sync/atomic"
	"time"
)

// effortOf is how much all lanes together keep in flight.
type effortOf struct {
	lanes    int   // that work; the others wait
	requests int   // on each of them, at most
	bytes    int64 // on each of them, at most; one request always may be
	size     int64 // bytes of a request
}

// pace decides how much is kept in flight at the source. Near a server that answers at once a little keeps everybody
// busy, and more would only cost it threads and push data out of the caches. Where reads take long, more is tried, and
// stays if that is faster: a far server and one that is slow on each connection gain much, a busy machine nothing. It is
// safe for several lanes.
type pace struct {
	steps   []effortOf // from near to far
	plan    *planner
	changed func(e effortOf, least time.Duration) // told of each change, under the lock

	lanes, requests, bytes atomic.Int64 // in force

	mu    sync.Mutex
	step  int
	trial bool          // the step is new, it is not known yet whether it helps
	began time.Time     // of the window in which speed is measured
	moved int64         // bytes in it
	least time.Duration // that a read took in it; 0 if there was none
	rate  float64       // bytes a second of the last window before a trial
	hold  time.Time     // no other trial before
}

func newPace(steps []effortOf, plan *planner, now time.Time, changed func(effortOf, time.Duration)) *pace {
	p := &pace{steps: steps, plan: plan, began: now, changed: changed}
	p.store(steps[0])
	return p
}

// answered takes that a read of n bytes has come after a time.
func (p *pace) answered(n int64, took time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.moved += n
	if p.least == 0 || took < p.least {
		p.least = took
	}
	window := now.Sub(p.began)
	last := p.step == len(p.steps)-1
	answers := float64(paceAnswers)
	if p.trial {
		answers++ // the first ones are still those of before
	}
	if last && !p.trial || window < paceWindow || window.Seconds() < answers*p.least.Seconds() {
		return
	}
	rate := float64(p.moved) / window.Seconds()
	switch {
	case p.trial && rate < paceGain*p.rate:
		p.trial, p.hold = false, now.Add(paceHold)
		p.use(p.step - 1)
	case !last && p.least > nearServer && now.After(p.hold):
		p.trial, p.rate = true, rate
		p.use(p.step + 1)
	default:
		p.trial = false
	}
	p.began, p.moved, p.least = now, 0, 0
}

func (p *pace) store(e effortOf) {
	p.lanes.Store(int64(e.lanes))
	p.requests.Store(int64(e.requests))
	p.bytes.Store(e.bytes)
}

func (p *pace) use(step int) {
	p.step = step
	e := p.steps[step]
	if step > 0 {
		e.size = min(e.size, max(p.steps[0].size, requestSizeFor(p.least)))
	}
	p.store(e)
	p.plan.resize(e.size)
	p.changed(e, p.least)
}

// requestSizeFor is how large requests to a server should be that needs so long for one.
func requestSizeFor(took time.Duration) int64 {
	if took > farServer {
		return farRequestSize
	}
	return distantRequestSize
}

// side is what a lane waits for at one of its ends.
type side struct {
	inFlight int
	queue    []*request    // in the order of their start; those that are answered are taken off the front
	seen     time.Time     // last sign of life, or when the first request of those in flight was started
	newest   time.Time     // start of the youngest request that was answered
	usual    time.Duration // how long a request takes, as a moving mean
}

func (s *side) begin(r *request, now time.Time) {
	if s.inFlight == 0 {
		s.seen = now
	}
	s.inFlight++
	r.began, r.open = now, true
	s.queue = append(s.queue, r)
}

func (s *side) end(r *request, now time.Time) {
	s.inFlight--
	s.seen, r.open = now, false
	if r.began.After(s.newest) {
		s.newest = r.began
	}
	if r.op == opRead || r.op == opWrite {
		s.usual += (now.Sub(r.began) - s.usual) / 8
	}
	for len(s.queue) > 0 && !s.queue[0].open {
		s.queue[0] = nil
		s.queue = s.queue[1:]
	}
}

// silent says whether nothing has been heard for the deadline, or whether one request was forgotten: it is that old, and
// others that were started much later have been answered. On a slow line requests only wait for their turn.
func (s *side) silent(now time.Time, deadline time.Duration) bool {
	if s.inFlight == 0 {
		return false
	}
	oldest := s.queue[0].began
	forgotten := now.Sub(oldest) > deadline && s.newest.Sub(oldest) > deadline/2
	return forgotten || now.Sub(s.seen) > deadline
}

// until is when silent has to be asked again at the latest; valid with requests in flight.
func (s *side) until(now time.Time, deadline time.Duration) time.Time {
	heard := s.seen.Add(deadline)
	if oldest := s.queue[0].began.Add(deadline); oldest.After(now) && oldest.Before(heard) {
		return oldest
	}
	return heard
}
