package nbd

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// depth is how much the threads of a copy keep in flight.
type depth struct {
	threads  int   // that work; the others wait
	requests int   // in flight on each of these threads, at most
	bytes    int64 // in flight on each of these threads, at most; one request is always allowed
	size     int64 // bytes of a request
	deep     bool  // so much is in flight that it pays off with a far server only
	shares   bool  // it shrinks while other copies run in this process
	gathers  bool  // small chunks come over one connection if the source would have no processor else
	relays   bool  // the target is a server: while data is written, twice as much in requests of half the size
}

// sharedBy scales the depth when several copies share the processors. Together they keep the processors busy, and more
// in flight would only push the other copies' data out of the caches.
func (d depth) sharedBy(copies, processors int) depth {
	if d.shares && copies > 1 {
		d.threads = max(1, min(d.threads, processors/copies))
		d.bytes = d.bytes * int64(min(processors, copies)) / int64(copies)
	}
	return d
}

// gathered is the same depth on one connection, where the threads would take all processors from the server. A server
// on this machine needs less processor time if many small requests come over one connection.
func (d depth) gathered(processors int) depth {
	if d.gathers && processors <= d.threads {
		d.requests *= d.threads
		d.bytes *= int64(d.threads)
		d.threads = 1
	}
	return d
}

// queueDepth adapts how much is in flight. A chunk is in flight from its request to the source until the target's
// answer. With near servers, little in flight keeps both sides and the copy busy; more would cost the servers threads
// and push data out of the caches. The fastest chunk so far tells a far server from a busy one: no chunk is faster than
// the way to both servers, however little is in flight. It is safe for several threads.
//
// It climbs a list of steps, from near to far, and measures each step over windows of time:
//
//	probing    one small chunk on each working thread shows how far the servers are
//	settling   after a change of step: chunks that were requested before do not count; windowSince is before stepSince
//	measuring  a window is open; judge decides when it is long enough
//	trial      measuring a new step: it stays if it is gain times as fast as the step before
//	proving    measuring a shallow step while leftDeep is set: is it slower than the deep step was?
//
// A far server gets a deep step at once (farStep). A deep step needs proof: if it is hardly faster than what the first
// step could reach over that distance, the shallow steps are measured. If they are slower, the deep step comes back and
// needs no proof until provenUntil. A chunk faster than nearServer ends all deep steps.
type queueDepth struct {
	steps      []depth // from near to far
	plan       *planner
	processors int // of this machine
	common     *commons
	busy       func() bool                          // whether the machine is too busy for times to mean anything
	changed    func(d depth, fastest time.Duration) // called at each change, with the lock held

	threads, requests, bytes atomic.Int64 // the depth in force
	relayed                  atomic.Int64 // bytes in force while what is read is written to a server

	mu          sync.Mutex
	step        int
	copies      int           // that ran in this process at the last look
	chunks      int           // observed so far
	size        float64       // bytes of a chunk, as a moving mean
	small       bool          // the chunks are small on average
	fastestEver time.Duration // of all chunks; 0 before the first

	probing     bool
	trial       bool
	stepSince   time.Time     // when the step began
	windowSince time.Time     // when the window began; before stepSince if there is no window yet
	movedBefore int64         // bytes that all copies had moved when the window began
	ownBytes    int64         // bytes of this copy in the window
	fastest     time.Duration // of the chunks in the window; 0 if there are none
	rateBefore  float64       // bytes a second of all copies in the last window before the trial

	nextBusyCheck time.Time     // no look at busy before
	holdUntil     time.Time     // no trial before
	lastHold      time.Duration // how long the last hold was; 0 if there was none
	leftDeep      effect        // of the deep step that was left last; zero once the shallow steps are judged
	provenUntil   time.Time     // until then a deep step needs no proof: the shallow steps were slower
}

// effect is the speed that a step reached.
type effect struct {
	step int
	rate float64 // bytes a second of all copies
}

// commons is what the copies of one process share. A step is judged by what all copies move together, and one copy
// tries a step at a time: else each would only take from the others what it gains. It is safe for several goroutines.
type commons struct {
	copies atomic.Int64 // that run
	moved  atomic.Int64 // bytes
	trial  atomic.Bool  // one copy tries a step
}

// join counts one more copy until leave is called.
func (c *commons) join() (leave func()) {
	c.copies.Add(1)
	return func() { c.copies.Add(-1) }
}

// connections is how many connections a copy opens that has joined. The copies that run share them out: each connection
// costs its server threads, and a host has only so many.
func (c *commons) connections() int {
	return max(leastConnections, min(defaultConnections, sharedConnections/int(max(1, c.copies.Load()))))
}

func newQueueDepth(steps []depth, common *commons, plan *planner, now time.Time,
	changed func(depth, time.Duration),
) *queueDepth {
	q := &queueDepth{
		copies: int(common.copies.Load()), steps: steps, common: common, plan: plan,
		processors: runtime.NumCPU(), windowSince: now, changed: changed, busy: busy, probing: true,
	}
	q.size = float64(steps[0].size)
	probe := q.current()
	plan.resize(probe.size, probe.relays)
	probe.bytes = 1
	q.store(probe)
	return q
}

// observe takes note of a chunk of n bytes that took so long, from its request to the target's answer.
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
		return // one slow chunk proves nothing: anything can have delayed it
	case q.looksFar(now) && q.confirmedFar(now):
		q.probing = false
		q.use(q.farStep()) // a faster chunk later leads back to the first step
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
	switch requested := now.Add(-took); {
	case requested.Before(q.stepSince):
		return // the chunk belongs to the step before
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

// areSmall says whether the chunks are small on average, as on a disk with little data in many places. Between one and
// two times smallChunks the answer stays what it was.
func (q *queueDepth) areSmall() bool {
	return q.size <= smallChunks || q.small && q.size < 2*smallChunks
}

// looksFar says whether a server seems so far that a deep step should begin at once, while no deep step is in force. A
// server at a medium distance needs more chunks as evidence, and is tried once only.
func (q *queueDepth) looksFar(now time.Time) bool {
	if q.steps[q.step].deep || !q.steps[len(q.steps)-1].deep {
		return false
	}
	return q.fastestEver > farServer && now.After(q.holdUntil) ||
		q.fastestEver > nearServer && q.chunks > middleChunks && q.lastHold == 0
}

// confirmedFar says whether the times of the chunks prove a distance. On a busy machine a few chunks prove nothing; of
// many, one would have been fast. Programs that have just started make a machine look busy, so the look is repeated.
func (q *queueDepth) confirmedFar(now time.Time) bool {
	if now.Before(q.nextBusyCheck) {
		return false
	}
	q.nextBusyCheck = now.Add(q.fastestEver)
	return q.fastestEver > farServer && q.chunks >= provingChunks || !q.busy()
}

// judge decides at the end of a window: stay, try the next step, or go back.
func (q *queueDepth) judge(now time.Time) {
	window := now.Sub(q.windowSince)
	deep := q.steps[q.step].deep
	last := deep && q.step >= q.furthest() || q.step == len(q.steps)-1
	settled := last && !q.trial && !deep && q.leftDeep.rate == 0
	if settled || window < max(queueDepthWindow, queueDepthAnswers*q.fastest) {
		return
	}
	own := float64(q.ownBytes) / window.Seconds()
	more := !last && !q.trial && now.After(q.holdUntil) && q.mayPayOff(own)
	if deep && !more && window < deepAnswers*q.fastest {
		return // chunks of a deep step come in waves: a short window counts only if the next step may pay off
	}
	rate := float64(q.common.moved.Load()-q.movedBefore) / window.Seconds()
	switch {
	case deep && now.After(q.provenUntil) && own < queueDepthGain*q.rateOverDistance(0):
		// The first step could be as fast over that distance: something else may be slow. Try it.
		q.leftDeep = effect{q.step, rate}
		q.retreat(0, now)
	case q.leftDeep.rate > deepGain*rate && q.step < q.shallow():
		q.use(q.shallow()) // the first step is slower; all connections with as little on each may not be
		q.begin(now)
	case q.leftDeep.rate > deepGain*rate: // all shallow steps are slower: back to the deep step
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

// gain is how many times as fast as before a trial must be to stay.
func (q *queueDepth) gain() float64 {
	if q.steps[q.step].deep && q.steps[q.step-1].deep {
		return deepGain
	}
	return queueDepthGain
}

// mayPayOff says whether the next step is worth a trial, if this copy moves own bytes a second in the present one.
func (q *queueDepth) mayPayOff(own float64) bool {
	// whether the distance limits the speed
	distance := q.fastestEver > nearServer && own > waitsShare*q.rateOverDistance(q.step)
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

// farStep is the step that begins at once if the servers are not near. At a medium distance it is the first deep step;
// with a far server the one before the furthest, which has to pay off first; with a very far one the furthest, for each
// trial would take long.
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

// retreat goes back to a step and holds: no trial for a while, each time twice as long, within bounds.
func (q *queueDepth) retreat(step int, now time.Time) {
	q.lastHold = min(queueDepthHoldMost, max(queueDepthHold, 2*q.lastHold))
	q.holdUntil = now.Add(q.lastHold)
	q.returnTo(step, now)
}

// backToNear begins anew at the first step: the servers were only slow at the beginning, so the rates of deep steps
// mean nothing.
func (q *queueDepth) backToNear(now time.Time) {
	q.leftDeep = effect{}
	q.returnTo(0, now)
}

// returnTo goes to an earlier step and gives a trial up.
func (q *queueDepth) returnTo(step int, now time.Time) {
	q.endTrial()
	q.use(step)
	q.begin(now)
}

// rateOverDistance is how many bytes a second a step can move if only the distance limits it.
func (q *queueDepth) rateOverDistance(step int) float64 {
	d := q.steps[step]
	return float64(d.bytes) * float64(d.threads) / q.fastestEver.Seconds()
}

// begin begins a step. Its first window begins with the first answer to a chunk that was requested in this step.
func (q *queueDepth) begin(now time.Time) {
	q.stepSince, q.windowSince = now, time.Time{}
}

// window begins a window.
func (q *queueDepth) window(at time.Time) {
	q.windowSince, q.movedBefore, q.ownBytes, q.fastest = at, q.common.moved.Load(), 0, 0
}

// endTrial ends a trial, so that another copy may try a step.
func (q *queueDepth) endTrial() {
	if q.trial {
		q.trial = false
		q.common.trial.Store(false)
	}
}

// close is called when the copy is over.
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

// current is the depth of the present step, for as many copies and such chunks as there are now.
func (q *queueDepth) current() depth {
	d := q.steps[q.step].sharedBy(q.copies, q.processors)
	if q.small {
		d = d.gathered(q.processors)
	}
	return d
}

// store puts a depth in force.
func (q *queueDepth) store(d depth) {
	q.threads.Store(int64(d.threads))
	q.requests.Store(int64(d.requests))
	q.bytes.Store(d.bytes)
	q.relayed.Store(d.bytes)
	if d.relays {
		q.relayed.Store(2 * d.bytes)
	}
}

// use puts a step in force, and tells the planner and the threads.
func (q *queueDepth) use(step int) {
	q.step = step
	d := q.current()
	q.store(d)
	q.plan.resize(d.size, d.relays)
	q.changed(d, q.fastest)
}
