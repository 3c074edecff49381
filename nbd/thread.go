package nbd

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// chunk is one planned range in flight: one read, then any number of writes and requests to zero. A chunk is free, or
// serves one planned range at a time.
type chunk struct {
	plannedRange
	thread  *thread
	memory  int       // which of the thread's buffers is lent, counted from 1; 0 for none
	buf     []byte    // the source's bytes
	other   []byte    // the target's bytes, when both sides are compared
	began   time.Time // when the chunk was requested
	pending int       // requests in flight at the target
	unsent  int       // writes among them whose bytes the target's connection still needs
	skipped int64     // bytes that need not travel
	hashes  hashes
	failed  error // the target's first error; nil if there is none
}

// lend gets memory for the chunk. It returns false if the thread has none left for now.
func (c *chunk) lend(last bool) bool { return c.memory > 0 || c.thread.memory(c, last) }

// sent says that the target's connection has sent the bytes of one write. When all writes are sent, the memory goes
// back: a retry reads the source again. So a write in flight owns as little memory as a read.
func (c *chunk) sent() {
	if c.unsent--; c.unsent == 0 && c.memory > 0 {
		c.thread.reclaim(c)
		c.thread.regained = true
	}
}

// step is what the threads do with each chunk: copy or compare. All threads call the same step, at the same time, each
// with its own chunks.
type step interface {
	// begin starts the first request of a new chunk: a read, or a request to zero.
	begin(t *thread, c *chunk)
	// read handles the source's bytes, which have arrived.
	read(t *thread, c *chunk) error
	// answered is called when the target has answered all requests of the chunk without an error.
	answered(t *thread, c *chunk) error
}

// shared is what the threads of one copy have in common.
type shared struct {
	plan        *planner
	meter       *Meter
	backlog     *backlog // nil if nothing is written
	faults      *faults
	reads       string // which side the threads read from: the source, or a target that is read back alone
	limiters    []*rate.Limiter
	budget      *Budget // nil for no limit
	deadline    time.Duration
	readsTarget bool // the side that is read is the target of the copy: its digests are compared
	queueDepth  *queueDepth
	working     *atomic.Int64 // threads that have work at present
	block       int64
	zeros       []byte // never written to; sent to targets that can't make zeros themselves
	wakeAll     func()
	wakeWorking func() // wakes the threads that may begin chunks
}

// thread is an event loop over one connection to the source and one to the target, in one goroutine. It keeps requests
// in flight on both. It blocks in poll only.
type thread struct {
	*shared
	number       int64
	step         step
	src, dst     conn
	wake         *wake
	checkpointer *checkpointer // of the first thread only; nil if nothing is written
	asks         bool          // the first thread only: asks for block status

	chunks  int        // in use
	reading int64      // bytes of the chunks in use that are not zeros
	free    []*chunk   // used before, free now
	spare   []*request // used before, free now
	bufs    buffers

	next       plannedRange // taken from the plan, not begun yet; 0 bytes if there is none
	again      retries
	owed       int64     // bytes of next that the limiters have not granted yet
	notBefore  time.Time // when the limiters allow next to begin
	held       bool      // too much waits for a flush or for a bulk zero
	overBudget bool      // the copies that share the budget have too much in flight at their sources
	claimed    int64     // bytes of the budget that the thread holds
	waits      bool      // the plan has no work for the thread at present
	ended      bool      // the plan will have no more work
	source     side
	target     side

	fds [3]unix.PollFd // source, target, wake

	regained   bool      // memory came back since collect looked last
	works      bool      // the thread is counted in working
	err        error     // why the thread stops early
	drainUntil time.Time // valid if err is set
	targetGone bool      // the target does not answer any more
}

// run works until the plan is done, a request or the step fails for good, or ctx ends. In the latter two cases, writes
// in flight get drainGrace to be acknowledged.
func (t *thread) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, t.wake.set)()
	defer t.work(false)
	t.source.quiet, t.target.quiet = &t.meter.sourceQuiet, &t.meter.targetQuiet
	if t.readsTarget {
		t.source.quiet, t.target.quiet = t.target.quiet, t.source.quiet
	}
	defer func() {
		t.source.leave()
		t.target.leave()
	}()
	defer func() {
		t.budget.leave(t.wake)
		t.budget.give(t.claimed)
	}()
	defer t.wakeAll() // idle threads wake, see that the plan is done, and end
	var gaveWay time.Time
	for {
		now := time.Now()
		if now.Sub(gaveWay) > giveWay {
			gaveWay = now
			runtime.Gosched() // else Go's monitor interferes with every system call (ADR 16)
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

// stop ends the thread early. The first error counts.
func (t *thread) stop(err error, now time.Time) {
	if t.err != nil {
		return
	}
	t.err, t.drainUntil, t.next = err, now.Add(drainGrace), plannedRange{}
}

// finished says whether run can return.
func (t *thread) finished(now time.Time) bool {
	if t.err != nil {
		return t.targetGone || t.target.inFlight == 0 || !now.Before(t.drainUntil)
	}
	t.ended = t.ended || t.plan.done() // an idle thread is not told that the plan is done, so it asks
	return t.ended && !t.hasNext() && t.source.inFlight == 0 && t.target.inFlight == 0 && len(t.again) == 0
}

// fill starts all requests that may start now.
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

// toPause says whether the queue depth leaves this thread idle. It may be called from any goroutine.
func (t *thread) toPause() bool { return t.number >= t.queueDepth.threads.Load() }

// mayBegin says whether another chunk may be in flight. A thread finishes what it has taken, also when it is to pause.
func (t *thread) mayBegin() bool {
	return (!t.toPause() || t.hasNext() || len(t.again) > 0) && t.chunks < int(t.queueDepth.requests.Load())
}

// fits says whether the bytes in flight leave room for the next chunk. Zeros always fit, and one chunk does.
func (t *thread) fits() bool {
	most := &t.queueDepth.bytes
	if t.plan.writing.Load() {
		most = &t.queueDepth.relayed
	}
	return t.next.zero || t.reading == 0 || t.reading+t.next.n <= most.Load()
}

// room says whether the next chunk may begin before more of the copied data is durable.
func (t *thread) room() bool {
	t.held = t.backlog != nil && !t.next.zero && t.backlog.full(t.next.n)
	return !t.held
}

// equip gets what a read needs: memory, unless the source takes it later, and bytes of the budget.
func (t *thread) equip(c *chunk) bool {
	return (t.src.lazyBuffers() || c.lend(false)) && t.budgeted(c.n)
}

// budgeted claims the bytes that a read will have in flight at the source.
func (t *thread) budgeted(n int64) bool {
	if t.overBudget = !t.budget.take(n, t.wake); t.overBudget {
		return false
	}
	t.claimed += n
	return true
}

// expect counts n bytes of data that will have to become durable; a negative n takes them back.
func (t *thread) expect(n int64) {
	if t.backlog != nil {
		t.backlog.begun.Add(n)
	}
}

// chunk returns a free chunk.
func (t *thread) chunk() *chunk {
	c := reuse(&t.free)
	c.thread = t
	return c
}

// reuse takes the last of the free values, or makes one.
func reuse[T any](free *[]*T) *T {
	k := len(*free) - 1
	if k < 0 {
		return new(T)
	}
	v := (*free)[k]
	*free = (*free)[:k]
	return v
}

// memory lends a chunk its buffer. last says that no chunk with memory waits for this thread.
func (t *thread) memory(c *chunk, last bool) bool {
	i := t.bufs.take(c.n)
	if i < 0 && last && t.target.inFlight == 0 {
		// The source answers many reads at once, each in parts, and those hold all memory. Without more memory, none
		// would ever come back.
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

// finish ends a chunk that was copied or compared.
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

// take makes sure that there is a next planned range: one that was taken before, a retry that is due, or one from the
// plan.
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

// ask asks the source for block status if the plan needs more of it.
func (t *thread) ask(now time.Time) {
	if off, n, ok := t.plan.question(); ok {
		t.toSource(t.request(opStatus, off, n, nil, nil), now)
	}
}

// granted asks the limiters for the owed bytes, in small parts, so that a change of a limit takes effect soon.
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

// reserve asks all limiters for n bytes. The slowest one sets the wait. If one of them wants more than
// throttlePatience, nothing is reserved and ok is false.
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

// request returns a free request. It keeps only the memory of its lists from an earlier use.
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

// collect handles all answers that have arrived.
func (t *thread) collect(now time.Time) (moved bool) {
	for r := t.src.done(); r != nil; r = t.src.done() {
		moved = true
		began := r.began
		t.source.end(r, now)
		t.meter.requests.Add(1)
		t.sourceAnswered(r, began, now)
		t.spare = append(t.spare, r)
	}
	for r := t.dst.done(); r != nil; r = t.dst.done() {
		moved = true
		began := r.began
		t.target.end(r, now)
		t.meter.requests.Add(1)
		t.targetAnswered(r, began, now)
		t.spare = append(t.spare, r)
	}
	moved = moved || t.regained // a chunk or a connection may wait for memory
	t.regained = false
	return moved
}

func (t *thread) sourceAnswered(r *request, began, now time.Time) {
	if r.op == opStatus {
		if r.err != nil {
			r.ranges = r.ranges[:0] // then the planner has the whole window read
		}
		t.plan.answer(r.off, r.n, r.ranges)
		t.wakeWorking()
		if isLost(r.err) {
			t.stop(at(t.reads, began, r.err), now)
		}
		return
	}
	t.claimed -= r.n
	t.budget.give(r.n)
	if t.err != nil {
		return // the thread stops: nothing more is written
	}
	if r.err != nil {
		t.retry(r.chunk, at(t.reads, began, r.err), now)
		return
	}
	if err := t.step.read(t, r.chunk); err != nil {
		t.stop(err, now)
	}
}

func (t *thread) targetAnswered(r *request, began, now time.Time) {
	if r.op == opFlush {
		t.checkpointer.flushed(r.err)
		if r.err != nil {
			t.targetGone = t.targetGone || isLost(r.err)
			t.stop(at(target, began, r.err), now)
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
		c.failed = at(target, began, r.err)
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

// retry handles a chunk that failed: its range is tried again, is recorded as bad, or the error ends the copy.
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

// writeZerosInstead writes zeros for a request to zero that the target does not support. It returns false if the
// request failed for another reason.
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

// wait blocks in poll until an answer, a wake-up or the next timeout, and accounts for the time.
func (t *thread) wait(now time.Time) {
	if t.source.silent(now, t.deadline) {
		t.stop(at(t.reads, t.source.since(), silent(t.deadline)), now)
		return
	}
	if t.target.silent(now, t.deadline) {
		t.targetGone = true
		t.stop(at(target, t.target.since(), silent(t.deadline)), now)
		return
	}
	awaited := t.source.inFlight+t.target.inFlight > 0
	t.work(awaited || !t.toPause())
	t.bufs.adapt(max(t.target.usual, t.eagerSource()), now)
	fds := &t.fds
	*fds = [3]unix.PollFd{} // else old events would be handled again after an interrupted poll
	fds[0].Fd, fds[0].Events = t.src.want()
	fds[1].Fd, fds[1].Events = t.dst.want()
	fds[2].Fd, fds[2].Events = int32(t.wake.fd), unix.POLLIN
	if fds[0].Fd < 0 {
		t.source.alive(now) // we do not listen, so the silence is not the source's
	}
	if err := poll(fds[:], t.timeout(now)); err != nil {
		t.stop(err, now)
		return
	}
	after := time.Now()
	t.account(after, after.Sub(now))
	t.dispatch(after)
	t.source.tell(after)
	t.target.tell(after)
}

// eagerSource is how long the source keeps the memory of a read that needs memory from its start; else 0.
func (t *thread) eagerSource() time.Duration {
	if t.src.lazyBuffers() {
		return 0
	}
	return t.source.usual
}

// dispatch gives the events that poll saw to the connections.
func (t *thread) dispatch(now time.Time) {
	fds := &t.fds
	if fds[2].Revents != 0 {
		t.wake.clear()
	}
	if fds[0].Revents != 0 {
		t.source.alive(now)
		t.source.quiet.answers(now)
		if err := t.src.ready(fds[0].Revents); err != nil {
			t.stop(at(t.reads, t.source.since(), err), now)
		}
	}
	if fds[1].Revents != 0 {
		t.target.alive(now)
		t.target.quiet.answers(now)
		if err := t.dst.ready(fds[1].Revents); err != nil {
			t.targetGone = true
			t.stop(at(target, t.target.since(), err), now)
		}
	}
}

// timeout is the time until the thread must act without an answer; negative if poll may wait for ever.
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
		until(now.Add(accountEvery)) // so that the meter shows a long wait while it lasts
	}
	return least
}

// throttled says whether only the limiters keep the next chunk from beginning.
func (t *thread) throttled(now time.Time) bool {
	return t.hasNext() && t.mayBegin() && now.Before(t.notBefore)
}

// work counts the thread as working, or as idle.
func (t *thread) work(works bool) {
	switch {
	case works && !t.works:
		t.working.Add(1)
	case !works && t.works:
		t.working.Add(-1)
	}
	t.works = works
}

// account charges a wait to a side: the one at which three quarters of all requests in flight are, or to the limits.
func (t *thread) account(now time.Time, d time.Duration) {
	share := int64(d) / max(1, t.working.Load())
	switch all := t.source.inFlight + t.target.inFlight; {
	case !t.works:
		// An idle thread's wait is charged to neither side.
	case t.throttled(now.Add(-d)), t.overBudget:
		t.meter.throttleWait.Add(share)
	case t.readsTarget:
		t.meter.targetWait.Add(share)
	case t.bufs.starved, t.held:
		t.meter.targetWait.Add(share)
	case all == 0 && t.waits, all > 0 && 4*t.source.inFlight >= 3*all:
		t.meter.sourceWait.Add(share)
	case all > 0 && 4*t.target.inFlight >= 3*all:
		t.meter.targetWait.Add(share)
	}
}
