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
func (p *chunk) lend(last bool) bool { return p.memory > 0 || p.thread.memory(p, last) }

// sent is told that the target's connection needs the bytes of a write no more. Nobody else does: who has to try again
// reads again. So a write in flight owns as little memory as a read.
func (p *chunk) sent() {
	if p.unsent--; p.unsent == 0 && p.memory > 0 {
		p.thread.unlend(p)
		p.thread.regained = true
	}
}

// step is what is done with each chunk: copying or comparing. It is called by the thread's goroutine only.
type step interface {
	// begin starts what a new chunk needs first: a read, or a request to zero.
	begin(l *thread, p *chunk)
	// read is told that the source's bytes are there.
	read(l *thread, p *chunk) error
	// answered is told that the target has answered all requests of the chunk, and well.
	answered(l *thread, p *chunk) error
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

	next      plannedRange // taken from the plan, not yet begun; of no bytes if there is none
	again     retries
	owed      int64 // bytes of next that the limiter has not granted yet
	notBefore time.Time
	held      bool // too much is not durable yet, or is still being zeroed
	crowded   bool // too much is in flight at the source, of all who share the budget
	claimed   int64
	waits     bool // the plan has nothing for us just now
	ended     bool // the plan has nothing for us any more
	source    side
	target    side

	fds [3]unix.PollFd // source, target, wake

	regained   bool      // memory came back since the last time that it was looked at
	works      bool      // it is counted in working
	err        error     // why it stops early
	drainUntil time.Time // valid with err
	targetGone bool      // the target won't answer any more
}

// run works until the plan is done, something failed, or ctx ends; in the latter cases writes in flight get a moment to
// be acknowledged.
func (l *thread) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.wake.set)()
	defer l.work(false)
	defer func() {
		l.budget.leave(l.wake)
		l.budget.give(l.claimed)
	}()
	defer l.wakeAll() // those that have nothing to do end with the last one that has
	var gaveWay time.Time
	for {
		now := time.Now()
		if now.Sub(gaveWay) > giveWay {
			gaveWay = now
			runtime.Gosched() // else Go's monitor interferes with every system call
		}
		if ctx.Err() != nil && l.err == nil {
			l.stop(context.Cause(ctx), now)
		}
		l.fill(now)
		moved := l.collect(now)
		if l.over(now) {
			return l.err
		}
		if !moved {
			l.wait(now)
		}
	}
}

// stop ends the thread early; the first reason counts.
func (l *thread) stop(err error, now time.Time) {
	if l.err != nil {
		return
	}
	l.err, l.drainUntil, l.next = err, now.Add(drainGrace), plannedRange{}
}

func (l *thread) over(now time.Time) bool {
	if l.err != nil {
		return l.targetGone || l.target.inFlight == 0 || !now.Before(l.drainUntil)
	}
	l.ended = l.ended || l.plan.done() // nobody tells one that takes no work
	return l.ended && !l.hasNext() && l.source.inFlight == 0 && l.target.inFlight == 0 && len(l.again) == 0
}

// fill starts whatever can be started.
func (l *thread) fill(now time.Time) {
	if l.err != nil {
		return
	}
	l.bufs.starved = false
	if l.checkpointer != nil {
		if l.checkpointer.due(now) {
			l.toTarget(l.request(opFlush, 0, 0, nil, nil), now)
		}
		if err := l.checkpointer.stuck(now, l.deadline); err != nil {
			l.stop(err, now)
			return
		}
	}
	l.held, l.crowded = false, false
	for l.mayBegin() && l.take(now) && l.fits() && l.room() && l.granted(now) {
		p := l.chunk()
		p.plannedRange, p.began = l.next, now
		if !p.zero && !l.equip(p) {
			l.unlend(p)
			l.free = append(l.free, p)
			break
		}
		l.chunks++
		if !p.zero {
			l.reading += p.n
			l.expect(p.n)
		}
		l.next = plannedRange{}
		l.step.begin(l, p)
	}
	if l.asks {
		l.ask(now)
	}
}

func (l *thread) hasNext() bool { return l.next.n > 0 }

// toPause says whether other threads are enough just now. It may be called from anywhere.
func (l *thread) toPause() bool { return l.number >= l.queueDepth.threads.Load() }

// mayBegin says whether another chunk may be in flight. What a thread has taken it finishes, also when it is to pause.
func (l *thread) mayBegin() bool {
	return (!l.toPause() || l.hasNext() || len(l.again) > 0) && l.chunks < int(l.queueDepth.requests.Load())
}

// fits says whether the next chunk is not too much beside those in flight; zeros are never.
func (l *thread) fits() bool {
	most := &l.queueDepth.bytes
	if l.plan.writing.Load() {
		most = &l.queueDepth.relayed
	}
	return l.next.zero || l.reading == 0 || l.reading+l.next.n <= most.Load()
}

// room says whether the next chunk may be begun before more of what was copied is durable.
func (l *thread) room() bool {
	l.held = l.backlog != nil && !l.next.zero && l.backlog.full(l.next.n)
	return !l.held
}

// equip gets what a read needs: memory, if the source needs it at once, and room at the source.
func (l *thread) equip(p *chunk) bool {
	return (l.src.lazyBuffers() || p.lend(false)) && l.budgeted(p.n)
}

// budgeted claims what a read will have in flight at the source.
func (l *thread) budgeted(n int64) bool {
	if l.crowded = !l.budget.take(n, l.wake); l.crowded {
		return false
	}
	l.claimed += n
	return true
}

// expect counts data that will be durable one day.
func (l *thread) expect(n int64) {
	if l.backlog != nil {
		l.backlog.begun.Add(n)
	}
}

// chunk returns one that is free.
func (l *thread) chunk() *chunk {
	p := reuse(&l.free)
	p.thread = l
	return p
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
func (l *thread) memory(p *chunk, last bool) bool {
	i := l.bufs.take(p.n)
	if i < 0 && last && l.target.inFlight == 0 {
		// A source that answers many reads at once, each of them in parts, holds all there is: nothing would ever come
		// back.
		i = l.bufs.more(p.n)
	}
	if i < 0 {
		return false
	}
	p.memory = i + 1
	mem := l.bufs.all[i]
	p.buf = mem[:p.n]
	if l.bufs.per > 1 {
		p.other = mem[len(mem)/l.bufs.per:][:p.n]
	}
	return true
}

// unlend takes a chunk's memory back.
func (l *thread) unlend(p *chunk) {
	if p.memory > 0 {
		l.bufs.give(p.memory-1, p.n)
	}
	p.memory, p.buf, p.other = 0, nil, nil
}

// finish is for a chunk of which all is done.
func (l *thread) finish(p *chunk) {
	if !p.zero {
		now := time.Now()
		l.queueDepth.came(p.n, now.Sub(p.began), now)
	}
	l.release(p)
}

// release makes a chunk free.
func (l *thread) release(p *chunk) {
	l.unlend(p)
	if !p.zero {
		l.reading -= p.n
	}
	*p = chunk{hashes: hashes{sums: p.hashes.sums[:0]}}
	l.chunks--
	l.free = append(l.free, p)
}

// take gets the next plannedRange, from what failed before or from the plan, if none is at hand.
func (l *thread) take(now time.Time) bool {
	if l.hasNext() {
		return true
	}
	if s, ok := l.again.due(now); ok {
		l.next, l.owed = s, 0
		return true
	}
	s, state := l.plan.next()
	l.waits, l.held, l.ended = state == planLater, state == planBulkZero, state == planEnd
	if state != planGot {
		return false
	}
	l.next, l.owed = s, s.n
	if s.zero {
		l.owed = 0
	}
	return true
}

func (l *thread) ask(now time.Time) {
	if off, n, ok := l.plan.question(); ok {
		l.toSource(l.request(opStatus, off, n, nil, nil), now)
	}
}

// granted asks the limiter for what is owed, in small parts: so that a change of the limit shows soon.
func (l *thread) granted(now time.Time) bool {
	if len(l.limiters) == 0 {
		return true
	}
	for l.owed > 0 && !now.Before(l.notBefore) {
		n := l.owed
		for _, lim := range l.limiters {
			n = min(n, grantSize(lim))
		}
		wait, ok := reserve(l.limiters, int(n), now)
		if !ok {
			l.notBefore = now.Add(throttleRetry)
			break
		}
		l.owed -= n
		l.notBefore = now.Add(wait)
	}
	return l.owed == 0 && !now.Before(l.notBefore)
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
func (l *thread) request(op op, off, n int64, buf []byte, p *chunk) *request {
	r := reuse(&l.spare)
	*r = request{op: op, off: off, n: n, buf: buf, chunk: p, ranges: r.ranges[:0], got: r.got[:0]}
	return r
}

func (l *thread) toSource(r *request, now time.Time) {
	l.source.begin(r, now)
	l.src.start(r)
}

func (l *thread) toTarget(r *request, now time.Time) {
	l.target.begin(r, now)
	if r.chunk != nil {
		r.chunk.pending++
		if r.op == opWrite {
			r.chunk.unsent++
		}
	}
	l.dst.start(r)
}

// collect takes all answers that are there.
func (l *thread) collect(now time.Time) (moved bool) {
	for r := l.src.done(); r != nil; r = l.src.done() {
		moved = true
		l.source.end(r, now)
		l.meter.requests.Add(1)
		l.sourceAnswered(r, now)
		l.spare = append(l.spare, r)
	}
	for r := l.dst.done(); r != nil; r = l.dst.done() {
		moved = true
		l.target.end(r, now)
		l.meter.requests.Add(1)
		l.targetAnswered(r, now)
		l.spare = append(l.spare, r)
	}
	moved = moved || l.regained // somebody may wait for it
	l.regained = false
	return moved
}

func (l *thread) sourceAnswered(r *request, now time.Time) {
	if r.op == opStatus {
		if r.err != nil {
			r.ranges = r.ranges[:0] // then the window is read
		}
		l.plan.answer(r.off, r.n, r.ranges)
		l.wakeWorking()
		if isLost(r.err) {
			l.stop(fmt.Errorf("%s: %w", source, r.err), now)
		}
		return
	}
	l.claimed -= r.n
	l.budget.give(r.n)
	if l.err != nil {
		return // what came too late is not written
	}
	if r.err != nil {
		l.retry(r.chunk, fmt.Errorf("%s: %w", source, r.err), now)
		return
	}
	if err := l.step.read(l, r.chunk); err != nil {
		l.stop(err, now)
	}
}

func (l *thread) targetAnswered(r *request, now time.Time) {
	if r.op == opFlush {
		l.checkpointer.flushed(r.err)
		if r.err != nil {
			l.targetGone = l.targetGone || isLost(r.err)
			l.stop(fmt.Errorf("%s: %w", target, r.err), now)
		}
		return
	}
	p := r.chunk
	p.pending--
	if p.bulkZero && r.err != nil && !isLost(r.err) {
		l.plan.bulkZeroAnswered(p.off, false)
		l.wakeWorking()
		l.release(p)
		return
	}
	if r.err != nil && !l.instead(r, now) && p.failed == nil {
		p.failed = fmt.Errorf("%s: %w", target, r.err)
		if isLost(r.err) {
			l.targetGone = true
			l.stop(p.failed, now)
		}
	}
	switch {
	case p.pending > 0:
	case p.failed != nil:
		l.retry(p, p.failed, now)
	default:
		if err := l.step.answered(l, p); err != nil {
			l.stop(err, now)
		}
	}
}

// retry deals with a chunk that failed: it is tried again, found bad, or ends the copy.
func (l *thread) retry(p *chunk, err error, now time.Time) {
	if l.err != nil {
		return
	}
	if !worthRetrying(err) {
		l.stop(err, now)
		return
	}
	s := p.plannedRange
	if !s.zero {
		l.expect(-s.n)
	}
	l.release(p)
	more := again(s, l.block, now)
	if more == nil {
		if ferr := l.faults.add(s, err); ferr != nil {
			l.stop(ferr, now)
		}
		return
	}
	l.again = append(l.again, more...)
}

// instead writes zeros if the target does not know how to make them; false if that is not the trouble.
func (l *thread) instead(r *request, now time.Time) bool {
	if r.op != opZero || l.err != nil || !errors.Is(r.err, syscall.EOPNOTSUPP) && !errors.Is(r.err, syscall.EINVAL) {
		return false
	}
	r.chunk.skipped -= r.n
	l.plan.zerosTravel()
	l.writeZeros(r.chunk, r.off, r.n, now)
	return true
}

func (l *thread) writeZeros(p *chunk, off, n int64, now time.Time) {
	for n > 0 {
		part := min(n, int64(len(l.zeros)))
		l.toTarget(l.request(opWrite, off, part, l.zeros[:part], p), now)
		off, n = off+part, n-part
	}
}

// wait blocks until something can have happened, and accounts for the time.
func (l *thread) wait(now time.Time) {
	if l.source.silent(now, l.deadline) {
		l.stop(fmt.Errorf("%s: %w", source, silent(l.deadline)), now)
		return
	}
	if l.target.silent(now, l.deadline) {
		l.targetGone = true
		l.stop(fmt.Errorf("%s: %w", target, silent(l.deadline)), now)
		return
	}
	awaited := l.source.inFlight+l.target.inFlight > 0
	l.work(awaited || !l.toPause())
	l.bufs.adapt(max(l.target.usual, l.eagerSource()), now)
	fds := &l.fds
	*fds = [3]unix.PollFd{} // else what was seen before is seen again after an interruption
	fds[0].Fd, fds[0].Events = l.src.want()
	fds[1].Fd, fds[1].Events = l.dst.want()
	fds[2].Fd, fds[2].Events = int32(l.wake.fd), unix.POLLIN
	if fds[0].Fd < 0 {
		l.source.seen = now // it is we who do not listen
	}
	if err := poll(fds[:], l.timeout(now)); err != nil {
		l.stop(err, now)
		return
	}
	after := time.Now()
	l.account(after, after.Sub(now))
	l.noticed(after)
}

// eagerSource is how long a source keeps the memory of a read that it gets at the start.
func (l *thread) eagerSource() time.Duration {
	if l.src.lazyBuffers() {
		return 0
	}
	return l.source.usual
}

// noticed hands on what poll saw.
func (l *thread) noticed(now time.Time) {
	fds := &l.fds
	if fds[2].Revents != 0 {
		l.wake.clear()
	}
	if fds[0].Revents != 0 {
		l.source.seen = now
		if err := l.src.ready(fds[0].Revents); err != nil {
			l.stop(fmt.Errorf("%s: %w", source, err), now)
		}
	}
	if fds[1].Revents != 0 {
		l.target.seen = now
		if err := l.dst.ready(fds[1].Revents); err != nil {
			l.targetGone = true
			l.stop(fmt.Errorf("%s: %w", target, err), now)
		}
	}
}

// timeout is the time to the next thing that must be done without anybody's answer; negative if there is none.
func (l *thread) timeout(now time.Time) time.Duration {
	least := time.Duration(-1)
	until := func(t time.Time) {
		if d := max(0, t.Sub(now)) + time.Millisecond; least < 0 || d < least {
			least = d
		}
	}
	if l.source.inFlight > 0 {
		until(l.source.until(now, l.deadline))
	}
	if l.target.inFlight > 0 {
		until(l.target.until(now, l.deadline))
	}
	if l.err != nil {
		until(l.drainUntil)
		return least
	}
	if l.throttled(now) {
		until(l.notBefore)
	}
	if len(l.again) > 0 && l.mayBegin() {
		until(l.again.next())
	}
	if l.checkpointer != nil {
		until(l.checkpointer.next())
	}
	if l.source.inFlight+l.target.inFlight > 0 {
		until(now.Add(accountEvery)) // so that it can be seen meanwhile who is waited for
	}
	return least
}

// throttled says whether only the limiter keeps the next chunk from being begun.
func (l *thread) throttled(now time.Time) bool {
	return l.hasNext() && l.mayBegin() && now.Before(l.notBefore)
}

// work counts the thread among those that do anything, or not.
func (l *thread) work(works bool) {
	switch {
	case works && !l.works:
		l.working.Add(1)
	case !works && l.works:
		l.working.Add(-1)
	}
	l.works = works
}

// account says on whom the time was spent: the side that three quarters of all requests wait for.
func (l *thread) account(now time.Time, d time.Duration) {
	share := int64(d) / max(1, l.working.Load())
	switch all := l.source.inFlight + l.target.inFlight; {
	case !l.works:
		// Nobody waits for what this one waits for.
	case l.throttled(now.Add(-d)), l.crowded:
		l.meter.throttleWait.Add(share)
	case l.bufs.starved, l.held:
		l.meter.targetWait.Add(share)
	case all == 0 && l.waits, all > 0 && 4*l.source.inFlight >= 3*all:
		l.meter.sourceWait.Add(share)
	case all > 0 && 4*l.target.inFlight >= 3*all:
		l.meter.targetWait.Add(share)
	}
}
