package nbd

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// effortOf is how much all threads together keep in flight.
type effortOf struct {
	threads  int   // that work; the others wait
	requests int   // on each of them, at most
	bytes    int64 // on each of them, at most; one request always may be
	size     int64 // bytes of a request
	deep     bool  // so much is in flight that only a far server is worth it
	shares   bool  // it is less while other copies run on this machine, too
	gathers  bool  // many small chunks come over one connection if the source would have no processor else
	// a server is written to: as long as that is needed, twice as much is in flight, in requests of half the size
	relays bool
}

// among is what is left of it for one of several copies that run at the same time: they keep the processors busy
// together, and what one more would have in flight only pushes the others' data out of the caches.
func (e effortOf) among(copies, processors int) effortOf {
	if e.shares && copies > 1 {
		e.threads = max(1, min(e.threads, processors/copies))
		e.bytes = e.bytes * int64(min(processors, copies)) / int64(copies)
	}
	return e
}

// gathered is the same on one connection, where the threads would have all processors and the server none: it costs one
// on this machine less if many small requests all come in at one place.
func (e effortOf) gathered(processors int) effortOf {
	if e.gathers && processors <= e.threads {
		e.requests *= e.threads
		e.bytes *= int64(e.threads)
		e.threads = 1
	}
	return e
}

// queueDepth decides how much is kept in flight, from the source to the target: a chunk is in flight from when it is
// asked for until the target has it. Near servers that answer at once a little keeps everybody busy, and more would
// only cost them threads and push data out of the caches. What tells a far server from a busy one is the fastest chunk
// that there ever was: it can't be faster than the way to both is long, however little is in flight. Whether more
// connections or more in flight pay off is found out by trying: the step stays if it is faster. It is safe for several
// threads.
type queueDepth struct {
	steps      []effortOf // from near to far
	plan       *planner
	processors int // of this machine
	common     *commons
	// whether so much goes on on this machine that nothing can be learnt from how long something takes
	busy    func() bool
	changed func(e effortOf, least time.Duration) // told of each change, under the lock

	threads, requests, bytes atomic.Int64 // in force
	relayed                  atomic.Int64 // bytes, as long as what is read has to be written

	mu      sync.Mutex
	copies  int  // that ran on this machine when it was last looked
	probing bool // each thread has one small chunk in flight, to see how far the servers are
	step    int
	chunks  int           // that came
	size    float64       // of each, in bytes, as a moving mean
	small   bool          // they are
	base    time.Duration // of the fastest ever; 0 before the first
	trial   bool          // the step is new, it is not known yet whether it helps
	since   time.Time     // of the step
	began   time.Time     // of the window in which speed is measured; before that of the step if there is none yet
	moved   int64         // bytes that all copies had moved at its beginning
	own     int64         // bytes of this one in it
	least   time.Duration // that a chunk took in it; 0 if there was none
	rate    float64       // bytes a second of the last window before a trial
	look    time.Time     // not before is looked at whether the machine is busy
	hold    time.Time     // no other trial before
	pause   time.Duration // how long the last hold was
	// of the step with much in flight that was left last; none once it is known what little brings
	left   effect
	proved time.Time // until then much in flight needs no justification: it was seen that little brings less
}

// effect is what a step brought.
type effect struct {
	step int
	rate float64 // bytes a second
}

// commons is what the copies of one process have in common. Whether something pays off is judged by what all of them
// move, and only one tries something at a time: else each would only take from the others what it gains.
type commons struct {
	copies atomic.Int64 // that run
	moved  atomic.Int64
	trial  atomic.Bool
}

// join counts one more copy, until what it returns is called.
func (c *commons) join() (leave func()) {
	c.copies.Add(1)
	return func() { c.copies.Add(-1) }
}

// connections is how many a copy that has joined opens: those that run share them out, for each costs its server
// threads, and one host has not any number of them.
func (c *commons) connections() int {
	return max(leastConnections, min(defaultConnections, sharedConnections/int(max(1, c.copies.Load()))))
}

func newQueueDepth(steps []effortOf, common *commons, plan *planner, now time.Time,
	changed func(effortOf, time.Duration)) *queueDepth {
	p := &queueDepth{copies: int(common.copies.Load()), steps: steps, common: common, plan: plan,
		processors: runtime.NumCPU(), began: now, changed: changed, busy: busy, probing: true}
	p.size = float64(steps[0].size)
	probe := p.effort()
	plan.resize(probe.size, probe.relays)
	probe.bytes = 1
	p.store(probe)
	return p
}

// came takes that a chunk of n bytes has come after a time.
func (p *queueDepth) came(n int64, took time.Duration, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.common.moved.Add(n)
	p.size += (float64(n) - p.size) / queueDepthMean
	if p.chunks++; p.chunks == 1 || took < p.base {
		p.base = took
	}
	switch {
	case p.probing && p.base > farServer && p.chunks < min(probes, p.effort().threads):
		return // one alone can have been held up by anything
	case p.isFar(now) && p.stillFar(now):
		p.probing = false
		p.use(p.jump()) // should one come sooner after all, it is left again
		p.begin(now)
		return
	case p.probing:
		p.probing = false
		p.store(p.effort())
		p.begin(now)
		return
	case p.copies != int(p.common.copies.Load()), p.small != p.areSmall():
		p.copies, p.small = int(p.common.copies.Load()), p.areSmall()
		p.use(p.step)
	case p.base < nearServer && (p.steps[p.step].deep || p.left != effect{}):
		p.nearAfterAll(now)
		return
	}
	switch asked := now.Add(-took); {
	case asked.Before(p.since):
		return // before the step
	case p.began.Before(p.since):
		p.window(now)
		return
	}
	p.own += n
	if p.least == 0 || took < p.least {
		p.least = took
	}
	p.judge(now)
}

// areSmall says whether the chunks are, as of a disk with little data in many places. What is between counts as before.
func (p *queueDepth) areSmall() bool {
	return p.size <= smallChunks || p.small && p.size < 2*smallChunks
}

// isFar says whether it is so far that much in flight is worth it at once, and that is not so yet. For what is not near
// either that takes more answers to be believed, and is tried once.
func (p *queueDepth) isFar(now time.Time) bool {
	if p.steps[p.step].deep || !p.steps[len(p.steps)-1].deep {
		return false
	}
	return p.base > farServer && now.After(p.hold) || p.base > nearServer && p.chunks > middleChunks && p.pause == 0
}

// stillFar says whether what the chunks took can be believed: on a busy machine a few prove nothing, and who is just
// being started makes it look busy, so it is looked at again and again. Of many one would have got through quickly.
func (p *queueDepth) stillFar(now time.Time) bool {
	if now.Before(p.look) {
		return false
	}
	p.look = now.Add(p.base)
	return p.base > farServer && p.chunks >= provingChunks || !p.busy()
}

// judge decides at the end of a window.
func (p *queueDepth) judge(now time.Time) {
	window := now.Sub(p.began)
	deep := p.steps[p.step].deep
	last := deep && p.step >= p.furthest() || p.step == len(p.steps)-1
	if last && !p.trial && !deep && p.left.rate == 0 || window < max(queueDepthWindow, queueDepthAnswers*p.least) {
		return
	}
	own := float64(p.own) / window.Seconds()
	more := !last && !p.trial && now.After(p.hold) && p.mayPayOff(own)
	if deep && !more && window < deepAnswers*p.least {
		return // only what cries for more is judged sooner
	}
	rate := float64(p.common.moved.Load()-p.moved) / window.Seconds()
	switch {
	case deep && now.After(p.proved) && own < queueDepthGain*p.reach(0):
		// Little in flight could bring as much over that distance: something else may be slow.
		p.left = effect{p.step, rate}
		p.retreat(0, now)
	case p.left.rate > deepGain*rate && p.step < p.shallow():
		p.use(p.shallow()) // but it does not; more connections could, with as little on each
		p.begin(now)
	case p.left.rate > deepGain*rate:
		p.proved = now.Add(queueDepthHoldMost)
		p.use(p.left.step)
		p.left = effect{}
		p.begin(now)
	case p.trial && rate < p.gain()*p.rate:
		p.retreat(p.step-1, now)
	case more && p.common.trial.CompareAndSwap(false, true):
		p.trial, p.rate = true, rate
		p.use(p.step + 1)
		p.begin(now)
	default:
		p.left = effect{}
		p.endTrial()
		p.window(now)
	}
}

// gain is how much faster a trial must be, to stay.
func (p *queueDepth) gain() float64 {
	if p.steps[p.step].deep && p.steps[p.step-1].deep {
		return deepGain
	}
	return queueDepthGain
}

// mayPayOff says whether the next step is worth a trial, after so many bytes a second in this one.
func (p *queueDepth) mayPayOff(own float64) bool {
	distance := p.base > nearServer && own > waitsShare*p.reach(p.step) // is what holds us up
	switch now, next := p.steps[p.step], p.steps[p.step+1]; {
	case now.deep:
		return distance
	case next.deep:
		return distance && !p.busy()
	default:
		return p.least > nearServer && !p.busy()
	}
}

// furthest is the last step that can pay off over the distance.
func (p *queueDepth) furthest() int {
	last := len(p.steps) - 1
	if p.steps[last].deep && p.base <= veryFarServer {
		last--
	}
	return max(0, last)
}

// jump is the step that is taken at once where it is not near: the first with much in flight; where it is far the one
// before the furthest, which is to pay off first; and that one where it is so far that each trial costs much.
func (p *queueDepth) jump() int {
	switch {
	case p.base > veryFarServer:
		return p.furthest()
	case p.base > farServer:
		return max(0, p.furthest()-1)
	default:
		return p.shallow() + 1
	}
}

// retreat goes back to a step, and tries nothing for a while.
func (p *queueDepth) retreat(step int, now time.Time) {
	p.pause = min(queueDepthHoldMost, max(queueDepthHold, 2*p.pause))
	p.hold = now.Add(p.pause)
	p.back(step, now)
}

// nearAfterAll starts anew: the servers were only slow at the beginning. What much in flight brought then says nothing.
func (p *queueDepth) nearAfterAll(now time.Time) {
	p.left = effect{}
	p.back(0, now)
}

// back goes to an earlier step. What was being tried is given up.
func (p *queueDepth) back(step int, now time.Time) {
	p.endTrial()
	p.use(step)
	p.begin(now)
}

// reach is how many bytes a second can come in a step if nothing but the distance holds them up.
func (p *queueDepth) reach(step int) float64 {
	e := p.steps[step]
	return float64(e.bytes) * float64(e.threads) / p.base.Seconds()
}

// begin is for a new step: its first window starts with the first answer to what was asked for in it.
func (p *queueDepth) begin(now time.Time) {
	p.since, p.began = now, time.Time{}
}

// window starts a window.
func (p *queueDepth) window(at time.Time) {
	p.began, p.moved, p.own, p.least = at, p.common.moved.Load(), 0, 0
}

// endTrial lets others try something.
func (p *queueDepth) endTrial() {
	if p.trial {
		p.trial = false
		p.common.trial.Store(false)
	}
}

// close is for when the copy is over.
func (p *queueDepth) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.endTrial()
}

// shallow is the last step that is not deep.
func (p *queueDepth) shallow() int {
	for i := len(p.steps) - 1; i > 0; i-- {
		if !p.steps[i].deep {
			return i
		}
	}
	return 0
}

// effort is how much is done in the present step.
func (p *queueDepth) effort() effortOf {
	e := p.steps[p.step].among(p.copies, p.processors)
	if p.small {
		e = e.gathered(p.processors)
	}
	return e
}

func (p *queueDepth) store(e effortOf) {
	p.threads.Store(int64(e.threads))
	p.requests.Store(int64(e.requests))
	p.bytes.Store(e.bytes)
	p.relayed.Store(e.bytes)
	if e.relays {
		p.relayed.Store(2 * e.bytes)
	}
}

func (p *queueDepth) use(step int) {
	p.step = step
	e := p.effort()
	p.store(e)
	p.plan.resize(e.size, e.relays)
	p.changed(e, p.least)
}

// side is what a thread waits for at one of its ends.
type side struct {
	inFlight int
	queue    queue[begun]  // in the order of their start; those that are answered are taken off the front
	seen     time.Time     // last sign of life, or when the first request of those in flight was started
	newest   time.Time     // start of the youngest request that was answered
	usual    time.Duration // how long a request takes, as a moving mean
}

// begun is a request as it was started. One that is answered has no beginning, or serves others and has another one.
type begun struct {
	*request
	at time.Time
}

func (b begun) unanswered() bool { return b.began.Equal(b.at) }

func (s *side) begin(r *request, now time.Time) {
	if s.inFlight == 0 {
		s.seen = now
	}
	s.inFlight++
	r.began = now
	s.queue.push(begun{r, now})
}

func (s *side) end(r *request, now time.Time) {
	s.inFlight--
	s.seen = now
	if r.began.After(s.newest) {
		s.newest = r.began
	}
	if r.op == opRead || r.op == opWrite {
		s.usual += (now.Sub(r.began) - s.usual) / 8
	}
	r.began = time.Time{}
	for s.queue.len() > 0 && !s.queue.first().unanswered() {
		s.queue.pop()
	}
}

// silent says whether nothing has been heard for the deadline, or whether one request was forgotten: it is that old,
// and others that were started much later have been answered. On a slow line requests only wait for their turn.
func (s *side) silent(now time.Time, deadline time.Duration) bool {
	if s.inFlight == 0 {
		return false
	}
	oldest := s.queue.first().at
	forgotten := now.Sub(oldest) > deadline && s.newest.Sub(oldest) > deadline/2
	return forgotten || now.Sub(s.seen) > deadline
}

// until is when silent has to be asked again at the latest; valid with requests in flight.
func (s *side) until(now time.Time, deadline time.Duration) time.Time {
	heard := s.seen.Add(deadline)
	if oldest := s.queue.first().at.Add(deadline); oldest.After(now) && oldest.Before(heard) {
		return oldest
	}
	return heard
}
