package nbd

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// depth is how much all threads together keep in flight.
type depth struct {
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

// sharedBy is what is left of it for one of several copies that run at the same time: they keep the processors busy
// together, and what one more would have in flight only pushes the others' data out of the caches.
func (d depth) sharedBy(copies, processors int) depth {
	if d.shares && copies > 1 {
		d.threads = max(1, min(d.threads, processors/copies))
		d.bytes = d.bytes * int64(min(processors, copies)) / int64(copies)
	}
	return d
}

// gathered is the same on one connection, where the threads would have all processors and the server none: it costs one
// on this machine less if many small requests all come in at one place.
func (d depth) gathered(processors int) depth {
	if d.gathers && processors <= d.threads {
		d.requests *= d.threads
		d.bytes *= int64(d.threads)
		d.threads = 1
	}
	return d
}

// queueDepth decides how much is kept in flight, from the source to the target: a chunk is in flight from when it is
// asked for until the target has it. Near servers that answer at once a little keeps everybody busy, and more would
// only cost them threads and push data out of the caches. What tells a far server from a busy one is the fastest chunk
// that there ever was: it can't be faster than the way to both is long, however little is in flight. Whether more
// connections or more in flight pay off is found out by trying: the step stays if it is faster. It is safe for several
// threads.
type queueDepth struct {
	steps      []depth // from near to far
	plan       *planner
	processors int // of this machine
	common     *commons
	// whether so much goes on on this machine that nothing can be learnt from how long something takes
	busy    func() bool
	changed func(e depth, least time.Duration) // told of each change, under the lock

	threads, requests, bytes atomic.Int64 // in force
	relayed                  atomic.Int64 // bytes, as long as what is read has to be written

	mu            sync.Mutex
	copies        int  // that ran on this machine when it was last looked
	probing       bool // each thread has one small chunk in flight, to see how far the servers are
	step          int
	chunks        int           // that came
	size          float64       // of each, in bytes, as a moving mean
	small         bool          // they are
	fastestEver   time.Duration // of the fastest ever; 0 before the first
	trial         bool          // the step is new, it is not known yet whether it helps
	stepSince     time.Time     // of the step
	windowSince   time.Time     // of the window in which speed is measured; before that of the step if there is none yet
	movedBefore   int64         // bytes that all copies had moved at its beginning
	ownBytes      int64         // bytes of this one in it
	fastest       time.Duration // that a chunk took in it; 0 if there was none
	rateBefore    float64       // bytes a second of the last window before a trial
	nextBusyCheck time.Time     // not before is looked at whether the machine is busy
	holdUntil     time.Time     // no other trial before
	lastHold      time.Duration // how long the last hold was
	// of the step with much in flight that was leftDeep last; none once it is known what little brings
	leftDeep    effect
	provenUntil time.Time // until then much in flight needs no justification: it was seen that little brings less
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

func newQueueDepth(steps []depth, common *commons, plan *planner, now time.Time,
	changed func(depth, time.Duration)) *queueDepth {
	q := &queueDepth{copies: int(common.copies.Load()), steps: steps, common: common, plan: plan,
		processors: runtime.NumCPU(), windowSince: now, changed: changed, busy: busy, probing: true}
	q.size = float64(steps[0].size)
	probe := q.current()
	plan.resize(probe.size, probe.relays)
	probe.bytes = 1
	q.store(probe)
	return q
}

// observe takes that a chunk of n bytes has come after a time.
func (q *queueDepth) observe(n int64, took time.Duration, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.common.moved.Add(n)
	q.size += (float64(n) - q.size) / queueDepthMean
	if q.chunks++; q.chunks == 1 || took < q.fastestEver {
		q.fastestEver = took
	}
	switch {
	case q.probing && q.fastestEver > farServer && q.chunks < min(probes, q.current().threads):
		return // one alone can have been held up by anything
	case q.looksFar(now) && q.confirmedFar(now):
		q.probing = false
		q.use(q.farStep()) // should one come sooner after all, it is left again
		q.begin(now)
		return
	case q.probing:
		q.probing = false
		q.store(q.current())
		q.begin(now)
		return
	case q.copies != int(q.common.copies.Load()), q.small != q.areSmall():
		q.copies, q.small = int(q.common.copies.Load()), q.areSmall()
		q.use(q.step)
	case q.fastestEver < nearServer && (q.steps[q.step].deep || q.leftDeep != effect{}):
		q.backToNear(now)
		return
	}
	switch asked := now.Add(-took); {
	case asked.Before(q.stepSince):
		return // before the step
	case q.windowSince.Before(q.stepSince):
		q.window(now)
		return
	}
	q.ownBytes += n
	if q.fastest == 0 || took < q.fastest {
		q.fastest = took
	}
	q.judge(now)
}

// areSmall says whether the chunks are, as of a disk with little data in many places. What is between counts as before.
func (q *queueDepth) areSmall() bool {
	return q.size <= smallChunks || q.small && q.size < 2*smallChunks
}

// looksFar says whether it is so far that much in flight is worth it at once, and that is not so yet. For what is not near
// either that takes more answers to be believed, and is tried once.
func (q *queueDepth) looksFar(now time.Time) bool {
	if q.steps[q.step].deep || !q.steps[len(q.steps)-1].deep {
		return false
	}
	return q.fastestEver > farServer && now.After(q.holdUntil) || q.fastestEver > nearServer && q.chunks > middleChunks && q.lastHold == 0
}

// confirmedFar says whether what the chunks took can be believed: on a busy machine a few prove nothing, and who is just
// being started makes it look busy, so it is looked at again and again. Of many one would have got through quickly.
func (q *queueDepth) confirmedFar(now time.Time) bool {
	if now.Before(q.nextBusyCheck) {
		return false
	}
	q.nextBusyCheck = now.Add(q.fastestEver)
	return q.fastestEver > farServer && q.chunks >= provingChunks || !q.busy()
}

// judge decides at the end of a window.
func (q *queueDepth) judge(now time.Time) {
	window := now.Sub(q.windowSince)
	deep := q.steps[q.step].deep
	last := deep && q.step >= q.furthest() || q.step == len(q.steps)-1
	if last && !q.trial && !deep && q.leftDeep.rate == 0 || window < max(queueDepthWindow, queueDepthAnswers*q.fastest) {
		return
	}
	own := float64(q.ownBytes) / window.Seconds()
	more := !last && !q.trial && now.After(q.holdUntil) && q.mayPayOff(own)
	if deep && !more && window < deepAnswers*q.fastest {
		return // only what cries for more is judged sooner
	}
	rate := float64(q.common.moved.Load()-q.movedBefore) / window.Seconds()
	switch {
	case deep && now.After(q.provenUntil) && own < queueDepthGain*q.rateOverDistance(0):
		// Little in flight could bring as much over that distance: something else may be slow.
		q.leftDeep = effect{q.step, rate}
		q.retreat(0, now)
	case q.leftDeep.rate > deepGain*rate && q.step < q.shallow():
		q.use(q.shallow()) // but it does not; more connections could, with as little on each
		q.begin(now)
	case q.leftDeep.rate > deepGain*rate:
		q.provenUntil = now.Add(queueDepthHoldMost)
		q.use(q.leftDeep.step)
		q.leftDeep = effect{}
		q.begin(now)
	case q.trial && rate < q.gain()*q.rateBefore:
		q.retreat(q.step-1, now)
	case more && q.common.trial.CompareAndSwap(false, true):
		q.trial, q.rateBefore = true, rate
		q.use(q.step + 1)
		q.begin(now)
	default:
		q.leftDeep = effect{}
		q.endTrial()
		q.window(now)
	}
}

// gain is how much faster a trial must be, to stay.
func (q *queueDepth) gain() float64 {
	if q.steps[q.step].deep && q.steps[q.step-1].deep {
		return deepGain
	}
	return queueDepthGain
}

// mayPayOff says whether the next step is worth a trial, after so many bytes a second in this one.
func (q *queueDepth) mayPayOff(own float64) bool {
	distance := q.fastestEver > nearServer && own > waitsShare*q.rateOverDistance(q.step) // is what holds us up
	switch now, next := q.steps[q.step], q.steps[q.step+1]; {
	case now.deep:
		return distance
	case next.deep:
		return distance && !q.busy()
	default:
		return q.fastest > nearServer && !q.busy()
	}
}

// furthest is the last step that can pay off over the distance.
func (q *queueDepth) furthest() int {
	last := len(q.steps) - 1
	if q.steps[last].deep && q.fastestEver <= veryFarServer {
		last--
	}
	return max(0, last)
}

// farStep is the step that is taken at once where it is not near: the first with much in flight; where it is far the one
// before the furthest, which is to pay off first; and that one where it is so far that each trial costs much.
func (q *queueDepth) farStep() int {
	switch {
	case q.fastestEver > veryFarServer:
		return q.furthest()
	case q.fastestEver > farServer:
		return max(0, q.furthest()-1)
	default:
		return q.shallow() + 1
	}
}

// retreat goes back to a step, and tries nothing for a while.
func (q *queueDepth) retreat(step int, now time.Time) {
	q.lastHold = min(queueDepthHoldMost, max(queueDepthHold, 2*q.lastHold))
	q.holdUntil = now.Add(q.lastHold)
	q.returnTo(step, now)
}

// backToNear starts anew: the servers were only slow at the beginning. What much in flight brought then says nothing.
func (q *queueDepth) backToNear(now time.Time) {
	q.leftDeep = effect{}
	q.returnTo(0, now)
}

// returnTo goes to an earlier step. What was being tried is given up.
func (q *queueDepth) returnTo(step int, now time.Time) {
	q.endTrial()
	q.use(step)
	q.begin(now)
}

// rateOverDistance is how many bytes a second can come in a step if nothing but the distance holds them up.
func (q *queueDepth) rateOverDistance(step int) float64 {
	d := q.steps[step]
	return float64(d.bytes) * float64(d.threads) / q.fastestEver.Seconds()
}

// begin is for a new step: its first window starts with the first answer to what was asked for in it.
func (q *queueDepth) begin(now time.Time) {
	q.stepSince, q.windowSince = now, time.Time{}
}

// window starts a window.
func (q *queueDepth) window(at time.Time) {
	q.windowSince, q.movedBefore, q.ownBytes, q.fastest = at, q.common.moved.Load(), 0, 0
}

// endTrial lets others try something.
func (q *queueDepth) endTrial() {
	if q.trial {
		q.trial = false
		q.common.trial.Store(false)
	}
}

// close is for when the copy is over.
func (q *queueDepth) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.endTrial()
}

// shallow is the last step that is not deep.
func (q *queueDepth) shallow() int {
	for i := len(q.steps) - 1; i > 0; i-- {
		if !q.steps[i].deep {
			return i
		}
	}
	return 0
}

// current is how much is done in the present step.
func (q *queueDepth) current() depth {
	d := q.steps[q.step].sharedBy(q.copies, q.processors)
	if q.small {
		d = d.gathered(q.processors)
	}
	return d
}

func (q *queueDepth) store(d depth) {
	q.threads.Store(int64(d.threads))
	q.requests.Store(int64(d.requests))
	q.bytes.Store(d.bytes)
	q.relayed.Store(d.bytes)
	if d.relays {
		q.relayed.Store(2 * d.bytes)
	}
}

func (q *queueDepth) use(step int) {
	q.step = step
	d := q.current()
	q.store(d)
	q.plan.resize(d.size, d.relays)
	q.changed(d, q.fastest)
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
