package nbd

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// chunk is a plannedRange on its way. It is free, or serves one plannedRange at a time.
type chunk struct {
	plannedRange
	thread  *thread
	memory  int       // which of the thread's buffers is lent, counted from 1; 0 for none
	buf     []byte    // the source's bytes
	other   []byte    // the target's bytes, when they are compared
	began   time.Time // when it was asked for
	pending int       // requests at the target
	unsent  int       // of those, writes of which the target's connection still needs the bytes
	skipped int64     // bytes that need not travel
	hashes  hashes
	failed  error // what the target answered first, if not well
}

// lend gets the chunk its memory; false if the thread has none left for now.
func (c *chunk) lend(last bool) bool { return c.memory > 0 || c.thread.memory(c, last) }

// sent is told that the target's connection needs the bytes of a write no more. Nobody else does: who has to try again
// reads again. So a write in flight owns as little memory as a read.
func (c *chunk) sent() {
	if c.unsent--; c.unsent == 0 && c.memory > 0 {
		c.thread.reclaim(c)
		c.thread.regained = true
	}
}

// step is what is done with each chunk: copying or comparing. It is called by the thread's goroutine only.
type step interface {
	// begin starts what a new chunk needs first: a read, or a request to zero.
	begin(t *thread, c *chunk)
	// read is told that the source's bytes are there.
	read(t *thread, c *chunk) error
	// answered is told that the target has answered all requests of the chunk, and well.
	answered(t *thread, c *chunk) error
}

// shared is what the threads of one copy have in common.
type shared struct {
	plan        *planner
	meter       *Meter
	backlog     *backlog // nil if nothing is written
	faults      *faults
	limiters    []*rate.Limiter
	budget      *Budget // nil for no limit
	deadline    time.Duration
	queueDepth  *queueDepth
	threads     int64
	working     *atomic.Int64 // threads that do anything just now
	block       int64
	zeros       []byte // never written: what is sent to targets that can't make zeros themselves
	wakeAll     func()
	wakeWorking func() // those that are not to pause
}

// thread is an event loop over one connection to the source and one to the target, in one goroutine. Requests are kept
// going on both; nothing but poll blocks.
type thread struct {
	*shared
	number       int64
	step         step
	src, dst     conn
	wake         *wake
	checkpointer *checkpointer // of the first thread only: records checkpoints
	asks         bool          // the first thread only: asks for block status

	chunks  int        // in use
	reading int64      // bytes of those that are no zeros
	free    []*chunk   // of earlier use
	spare   []*request // likewise
	bufs    buffers

	next       plannedRange // taken from the plan, not yet begun; of no bytes if there is none
	again      retries
	owed       int64 // bytes of next that the limiter has not granted yet
	notBefore  time.Time
	held       bool // too much is not durable yet, or is still being zeroed
	overBudget bool // too much is in flight at the source, of all who share the budget
	claimed    int64
	waits      bool // the plan has nothing for us just now
	ended      bool // the plan has nothing for us any more
	source     side
	target     side

	fds [3]unix.PollFd // source, target, wake

	regained   bool      // memory came back since the last time that it was looked at
	works      bool      // it is counted in working
	err        error     // why it stops early
	drainUntil time.Time // valid with err
	targetGone bool      // the target won't answer any more
}

// run works until the plan is done, something failed, or ctx ends; in the latter cases writes in flight get a moment to
// be acknowledged.
func (t *thread) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, t.wake.set)()
	defer t.work(false)
	defer func() {
		t.budget.leave(t.wake)
		t.budget.give(t.claimed)
	}()
	defer t.wakeAll() // those that have nothing to do end with the last one that has
	var gaveWay time.Time
	for {
		now := time.Now()
		if now.Sub(gaveWay) > giveWay {
			gaveWay = now
			runtime.Gosched() // else Go's monitor interferes with every system call
		}
		if ctx.Err() != nil && t.err == nil {
			t.stop(context.Cause(ctx), now)
		}
		t.fill(now)
		moved := t.collect(now)
		if t.finished(now) {
			return t.err
		}
		if !moved {
			t.wait(now)
		}
	}
}

// stop ends the thread early; the first reason counts.
func (t *thread) stop(err error, now time.Time) {
	if t.err != nil {
		return
	}
	t.err, t.drainUntil, t.next = err, now.Add(drainGrace), plannedRange{}
}

func (t *thread) finished(now time.Time) bool {
	if t.err != nil {
		return t.targetGone || t.target.inFlight == 0 || !now.Before(t.drainUntil)
	}
	t.ended = t.ended || t.plan.done() // nobody tells one that takes no work
	return t.ended && !t.hasNext() && t.source.inFlight == 0 && t.target.inFlight == 0 && len(t.again) == 0
}

// fill starts whatever can be started.
func (t *thread) fill(now time.Time) {
	if t.err != nil {
		return
	}
	t.bufs.starved = false
	if t.checkpointer != nil {
		if t.checkpointer.due(now) {
			t.toTarget(t.request(opFlush, 0, 0, nil, nil), now)
		}
		if err := t.checkpointer.stuck(now, t.deadline); err != nil {
			t.stop(err, now)
			return
		}
	}
	t.held, t.overBudget = false, false
	for t.mayBegin() && t.take(now) && t.fits() && t.room() && t.granted(now) {
		c := t.chunk()
		c.plannedRange, c.began = t.next, now
		if !c.zero && !t.equip(c) {
			t.reclaim(c)
			t.free = append(t.free, c)
			break
		}
		t.chunks++
		if !c.zero {
			t.reading += c.n
			t.expect(c.n)
		}
		t.next = plannedRange{}
		t.step.begin(t, c)
	}
	if t.asks {
		t.ask(now)
	}
}

func (t *thread) hasNext() bool { return t.next.n > 0 }

// toPause says whether other threads are enough just now. It may be called from anywhere.
func (t *thread) toPause() bool { return t.number >= t.queueDepth.threads.Load() }

// mayBegin says whether another chunk may be in flight. What a thread has taken it finishes, also when it is to pause.
func (t *thread) mayBegin() bool {
	return (!t.toPause() || t.hasNext() || len(t.again) > 0) && t.chunks < int(t.queueDepth.requests.Load())
}

// fits says whether the next chunk is not too much beside those in flight; zeros are never.
func (t *thread) fits() bool {
	most := &t.queueDepth.bytes
	if t.plan.writing.Load() {
		most = &t.queueDepth.relayed
	}
	return t.next.zero || t.reading == 0 || t.reading+t.next.n <= most.Load()
}

// room says whether the next chunk may be begun before more of what was copied is durable.
func (t *thread) room() bool {
	t.held = t.backlog != nil && !t.next.zero && t.backlog.full(t.next.n)
	return !t.held
}

// equip gets what a read needs: memory, if the source needs it at once, and room at the source.
func (t *thread) equip(c *chunk) bool {
	return (t.src.lazyBuffers() || c.lend(false)) && t.budgeted(c.n)
}

// budgeted claims what a read will have in flight at the source.
func (t *thread) budgeted(n int64) bool {
	if t.overBudget = !t.budget.take(n, t.wake); t.overBudget {
		return false
	}
	t.claimed += n
	return true
}

// expect counts data that will be durable one day.
func (t *thread) expect(n int64) {
	if t.backlog != nil {
		t.backlog.begun.Add(n)
	}
}

// chunk returns one that is free.
func (t *thread) chunk() *chunk {
	c := reuse(&t.free)
	c.thread = t
	return c
}

// reuse takes one of those that are free, or makes one.
func reuse[T any](free *[]*T) *T {
	k := len(*free) - 1
	if k < 0 {
		return new(T)
	}
	v := (*free)[k]
	*free = (*free)[:k]
	return v
}

// memory lends a chunk what it needs. If last, no chunk that has memory waits for us.
func (t *thread) memory(c *chunk, last bool) bool {
	i := t.bufs.take(c.n)
	if i < 0 && last && t.target.inFlight == 0 {
		// A source that answers many reads at once, each of them in parts, holds all there is: nothing would ever come
		// back.
		i = t.bufs.more(c.n)
	}
	if i < 0 {
		return false
	}
	c.memory = i + 1
	mem := t.bufs.all[i]
	c.buf = mem[:c.n]
	if t.bufs.per > 1 {
		c.other = mem[len(mem)/t.bufs.per:][:c.n]
	}
	return true
}

// reclaim takes a chunk's memory back.
func (t *thread) reclaim(c *chunk) {
	if c.memory > 0 {
		t.bufs.give(c.memory-1, c.n)
	}
	c.memory, c.buf, c.other = 0, nil, nil
}

// finish is for a chunk of which all is done.
func (t *thread) finish(c *chunk) {
	if !c.zero {
		now := time.Now()
		t.queueDepth.observe(c.n, now.Sub(c.began), now)
	}
	t.release(c)
}

// release makes a chunk free.
func (t *thread) release(c *chunk) {
	t.reclaim(c)
	if !c.zero {
		t.reading -= c.n
	}
	*c = chunk{hashes: hashes{sums: c.hashes.sums[:0]}}
	t.chunks--
	t.free = append(t.free, c)
}

// take gets the next plannedRange, from what failed before or from the plan, if none is at hand.
func (t *thread) take(now time.Time) bool {
	if t.hasNext() {
		return true
	}
	if pr, ok := t.again.due(now); ok {
		t.next, t.owed = pr, 0
		return true
	}
	pr, state := t.plan.next()
	t.waits, t.held, t.ended = state == planLater, state == planBulkZero, state == planEnd
	if state != planGot {
		return false
	}
	t.next, t.owed = pr, pr.n
	if pr.zero {
		t.owed = 0
	}
	return true
}

func (t *thread) ask(now time.Time) {
	if off, n, ok := t.plan.question(); ok {
		t.toSource(t.request(opStatus, off, n, nil, nil), now)
	}
}

// granted asks the limiter for what is owed, in small parts: so that a change of the limit shows soon.
func (t *thread) granted(now time.Time) bool {
	if len(t.limiters) == 0 {
		return true
	}
	for t.owed > 0 && !now.Before(t.notBefore) {
		n := t.owed
		for _, lim := range t.limiters {
			n = min(n, grantSize(lim))
		}
		wait, ok := reserve(t.limiters, int(n), now)
		if !ok {
			t.notBefore = now.Add(throttleRetry)
			break
		}
		t.owed -= n
		t.notBefore = now.Add(wait)
	}
	return t.owed == 0 && !now.Before(t.notBefore)
}

// reserve asks all limiters for the same; the slowest says how long to wait. If one asks for too much patience, nothing
// is reserved.
func reserve(limiters []*rate.Limiter, n int, now time.Time) (wait time.Duration, ok bool) {
	made := make([]*rate.Reservation, 0, len(limiters))
	for _, lim := range limiters {
		r := lim.ReserveN(now, n)
		made = append(made, r)
		if ok = r.OK() && r.DelayFrom(now) <= throttlePatience; !ok {
			break
		}
		wait = max(wait, r.DelayFrom(now))
	}
	if !ok {
		for _, r := range made {
			r.CancelAt(now)
		}
	}
	return wait, ok
}

// grantSize is a twentieth of a second's worth, within the burst.
func grantSize(lim *rate.Limiter) int64 {
	n := int64(largestRequestSize)
	if limit := lim.Limit(); limit < rate.Limit(n) {
		n = max(512, int64(limit)/20)
	}
	return max(1, min(n, int64(lim.Burst())))
}

// request returns one that is nobody's; of an earlier use only the memory of its lists is left.
func (t *thread) request(op op, off, n int64, buf []byte, c *chunk) *request {
	r := reuse(&t.spare)
	*r = request{op: op, off: off, n: n, buf: buf, chunk: c, ranges: r.ranges[:0], got: r.got[:0]}
	return r
}

func (t *thread) toSource(r *request, now time.Time) {
	t.source.begin(r, now)
	t.src.start(r)
}

func (t *thread) toTarget(r *request, now time.Time) {
	t.target.begin(r, now)
	if r.chunk != nil {
		r.chunk.pending++
		if r.op == opWrite {
			r.chunk.unsent++
		}
	}
	t.dst.start(r)
}

// collect takes all answers that are there.
func (t *thread) collect(now time.Time) (moved bool) {
	for r := t.src.done(); r != nil; r = t.src.done() {
		moved = true
		t.source.end(r, now)
		t.meter.requests.Add(1)
		t.sourceAnswered(r, now)
		t.spare = append(t.spare, r)
	}
	for r := t.dst.done(); r != nil; r = t.dst.done() {
		moved = true
		t.target.end(r, now)
		t.meter.requests.Add(1)
		t.targetAnswered(r, now)
		t.spare = append(t.spare, r)
	}
	moved = moved || t.regained // somebody may wait for it
	t.regained = false
	return moved
}

func (t *thread) sourceAnswered(r *request, now time.Time) {
	if r.op == opStatus {
		if r.err != nil {
			r.ranges = r.ranges[:0] // then the window is read
		}
		t.plan.answer(r.off, r.n, r.ranges)
		t.wakeWorking()
		if isLost(r.err) {
			t.stop(fmt.Errorf("%s: %w", source, r.err), now)
		}
		return
	}
	t.claimed -= r.n
	t.budget.give(r.n)
	if t.err != nil {
		return // what came too late is not written
	}
	if r.err != nil {
		t.retry(r.chunk, fmt.Errorf("%s: %w", source, r.err), now)
		return
	}
	if err := t.step.read(t, r.chunk); err != nil {
		t.stop(err, now)
	}
}

func (t *thread) targetAnswered(r *request, now time.Time) {
	if r.op == opFlush {
		t.checkpointer.flushed(r.err)
		if r.err != nil {
			t.targetGone = t.targetGone || isLost(r.err)
			t.stop(fmt.Errorf("%s: %w", target, r.err), now)
		}
		return
	}
	c := r.chunk
	c.pending--
	if c.bulkZero && r.err != nil && !isLost(r.err) {
		t.plan.bulkZeroAnswered(c.off, false)
		t.wakeWorking()
		t.release(c)
		return
	}
	if r.err != nil && !t.writeZerosInstead(r, now) && c.failed == nil {
		c.failed = fmt.Errorf("%s: %w", target, r.err)
		if isLost(r.err) {
			t.targetGone = true
			t.stop(c.failed, now)
		}
	}
	switch {
	case c.pending > 0:
	case c.failed != nil:
		t.retry(c, c.failed, now)
	default:
		if err := t.step.answered(t, c); err != nil {
			t.stop(err, now)
		}
	}
}

// retry deals with a chunk that failed: it is tried again, found bad, or ends the copy.
func (t *thread) retry(c *chunk, err error, now time.Time) {
	if t.err != nil {
		return
	}
	if !worthRetrying(err) {
		t.stop(err, now)
		return
	}
	pr := c.plannedRange
	if !pr.zero {
		t.expect(-pr.n)
	}
	t.release(c)
	more := again(pr, t.block, now)
	if more == nil {
		if ferr := t.faults.add(pr, err); ferr != nil {
			t.stop(ferr, now)
		}
		return
	}
	t.again = append(t.again, more...)
}

// writeZerosInstead writes zeros if the target does not know how to make them; false if that is not the trouble.
func (t *thread) writeZerosInstead(r *request, now time.Time) bool {
	if r.op != opZero || t.err != nil || !errors.Is(r.err, syscall.EOPNOTSUPP) && !errors.Is(r.err, syscall.EINVAL) {
		return false
	}
	r.chunk.skipped -= r.n
	t.plan.zerosTravel()
	t.writeZeros(r.chunk, r.off, r.n, now)
	return true
}

func (t *thread) writeZeros(c *chunk, off, n int64, now time.Time) {
	for n > 0 {
		part := min(n, int64(len(t.zeros)))
		t.toTarget(t.request(opWrite, off, part, t.zeros[:part], c), now)
		off, n = off+part, n-part
	}
}

// wait blocks until something can have happened, and accounts for the time.
func (t *thread) wait(now time.Time) {
	if t.source.silent(now, t.deadline) {
		t.stop(fmt.Errorf("%s: %w", source, silent(t.deadline)), now)
		return
	}
	if t.target.silent(now, t.deadline) {
		t.targetGone = true
		t.stop(fmt.Errorf("%s: %w", target, silent(t.deadline)), now)
		return
	}
	awaited := t.source.inFlight+t.target.inFlight > 0
	t.work(awaited || !t.toPause())
	t.bufs.adapt(max(t.target.usual, t.eagerSource()), now)
	fds := &t.fds
	*fds = [3]unix.PollFd{} // else what was seen before is seen again after an interruption
	fds[0].Fd, fds[0].Events = t.src.want()
	fds[1].Fd, fds[1].Events = t.dst.want()
	fds[2].Fd, fds[2].Events = int32(t.wake.fd), unix.POLLIN
	if fds[0].Fd < 0 {
		t.source.seen = now // it is we who do not listen
	}
	if err := poll(fds[:], t.timeout(now)); err != nil {
		t.stop(err, now)
		return
	}
	after := time.Now()
	t.account(after, after.Sub(now))
	t.dispatch(after)
}

// eagerSource is how long a source keeps the memory of a read that it gets at the start.
func (t *thread) eagerSource() time.Duration {
	if t.src.lazyBuffers() {
		return 0
	}
	return t.source.usual
}

// dispatch hands on what poll saw.
func (t *thread) dispatch(now time.Time) {
	fds := &t.fds
	if fds[2].Revents != 0 {
		t.wake.clear()
	}
	if fds[0].Revents != 0 {
		t.source.seen = now
		if err := t.src.ready(fds[0].Revents); err != nil {
			t.stop(fmt.Errorf("%s: %w", source, err), now)
		}
	}
	if fds[1].Revents != 0 {
		t.target.seen = now
		if err := t.dst.ready(fds[1].Revents); err != nil {
			t.targetGone = true
			t.stop(fmt.Errorf("%s: %w", target, err), now)
		}
	}
}

// timeout is the time to the next thing that must be done without anybody's answer; negative if there is none.
func (t *thread) timeout(now time.Time) time.Duration {
	least := time.Duration(-1)
	until := func(t time.Time) {
		if d := max(0, t.Sub(now)) + time.Millisecond; least < 0 || d < least {
			least = d
		}
	}
	if t.source.inFlight > 0 {
		until(t.source.until(now, t.deadline))
	}
	if t.target.inFlight > 0 {
		until(t.target.until(now, t.deadline))
	}
	if t.err != nil {
		until(t.drainUntil)
		return least
	}
	if t.throttled(now) {
		until(t.notBefore)
	}
	if len(t.again) > 0 && t.mayBegin() {
		until(t.again.next())
	}
	if t.checkpointer != nil {
		until(t.checkpointer.next())
	}
	if t.source.inFlight+t.target.inFlight > 0 {
		until(now.Add(accountEvery)) // so that it can be seen meanwhile who is waited for
	}
	return least
}

// throttled says whether only the limiter keeps the next chunk from being begun.
func (t *thread) throttled(now time.Time) bool {
	return t.hasNext() && t.mayBegin() && now.Before(t.notBefore)
}

// work counts the thread among those that do anything, or not.
func (t *thread) work(works bool) {
	switch {
	case works && !t.works:
		t.working.Add(1)
	case !works && t.works:
		t.working.Add(-1)
	}
	t.works = works
}

// account says on whom the time was spent: the side that three quarters of all requests wait for.
func (t *thread) account(now time.Time, d time.Duration) {
	share := int64(d) / max(1, t.working.Load())
	switch all := t.source.inFlight + t.target.inFlight; {
	case !t.works:
		// Nobody waits for what this one waits for.
	case t.throttled(now.Add(-d)), t.overBudget:
		t.meter.throttleWait.Add(share)
	case t.bufs.starved, t.held:
		t.meter.targetWait.Add(share)
	case all == 0 && t.waits, all > 0 && 4*t.source.inFlight >= 3*all:
		t.meter.sourceWait.Add(share)
	case all > 0 && 4*t.target.inFlight >= 3*all:
		t.meter.targetWait.Add(share)
	}
}
