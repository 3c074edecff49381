package nbd

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// piece is a span on its way, with the memory for it. It is free, or serves one span at a time.
type piece struct {
	span
	buf     []byte // as large as a request
	other   []byte // the target's bytes, when they are compared
	pending int    // requests at the target
	skipped int64  // bytes that need not travel
}

// step is what is done with each piece: copying or comparing. It is called by the lane's goroutine only.
type step interface {
	// begin starts what a new piece needs first: a read, or a request to zero.
	begin(l *lane, p *piece)
	// read is told that the source's bytes are there.
	read(l *lane, p *piece) error
	// answered is told that the target answered a request of the piece well.
	answered(l *lane, p *piece, r *request) error
}

// shared is what the lanes of one copy have in common.
type shared struct {
	plan     *planner
	meter    *Meter
	limiter  *rate.Limiter
	deadline time.Duration
	lanes    int64
	wakeAll  func()
}

// lane is an event loop over one connection to the source and one to the target, in one goroutine. Requests are kept
// going on both; nothing but poll blocks.
type lane struct {
	*shared
	step     step
	src, dst conn
	wake     *wake
	keeper   *keeper // of the first lane only: records checkpoints
	asks     bool    // the first lane only: asks for block status

	free       []*piece
	next       *span // taken from the plan, not yet begun
	owed       int64 // bytes of it that the limiter has not granted yet
	notBefore  time.Time
	waits      bool // the plan has nothing for us just now
	ended      bool // the plan has nothing for us any more
	atSource   int  // requests in flight
	atTarget   int
	sourceSeen time.Time // last sign of life, or when the first request of those in flight was sent
	targetSeen time.Time

	err        error     // why it stops early
	drainUntil time.Time // valid with err
	targetGone bool      // the target won't answer any more
}

// run works until the plan is done, something failed, or ctx ends; in the latter cases writes in flight get a moment to
// be acknowledged.
func (l *lane) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, l.wake.set)()
	for {
		now := time.Now()
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

// stop ends the lane early; the first reason counts.
func (l *lane) stop(err error, now time.Time) {
	if l.err != nil {
		return
	}
	l.err, l.drainUntil, l.next = err, now.Add(drainGrace), nil
}

func (l *lane) over(now time.Time) bool {
	if l.err != nil {
		return l.targetGone || l.atTarget == 0 || !now.Before(l.drainUntil)
	}
	return l.ended && l.atSource == 0 && l.atTarget == 0
}

// fill starts whatever can be started.
func (l *lane) fill(now time.Time) {
	if l.err != nil {
		return
	}
	if l.keeper != nil && l.keeper.due(now) {
		l.toTarget(&request{op: opFlush}, now)
	}
	for len(l.free) > 0 && l.take() && l.granted(now) {
		last := len(l.free) - 1
		p := l.free[last]
		l.free = l.free[:last]
		p.span, p.pending, p.skipped = *l.next, 0, 0
		l.next = nil
		l.step.begin(l, p)
	}
	if l.asks {
		l.ask(now)
	}
}

// take gets the next span from the plan if none is at hand.
func (l *lane) take() bool {
	if l.next != nil {
		return true
	}
	s, state := l.plan.next()
	l.waits, l.ended = state == planLater, state == planEnd
	if state != planGot {
		return false
	}
	l.next, l.owed = &s, s.n
	if s.zero {
		l.owed = 0
	}
	return true
}

func (l *lane) ask(now time.Time) {
	if off, n, ok := l.plan.question(); ok {
		l.toSource(&request{op: opStatus, off: off, n: n}, now)
	}
}

// granted asks the limiter for what is owed, in small parts: so that a change of the limit shows soon.
func (l *lane) granted(now time.Time) bool {
	if l.limiter == nil {
		return true
	}
	for l.owed > 0 && !now.Before(l.notBefore) {
		n := min(l.owed, grantSize(l.limiter))
		r := l.limiter.ReserveN(now, int(n))
		if !r.OK() {
			l.notBefore = now.Add(throttleRetry)
			break
		}
		wait := r.DelayFrom(now)
		if wait > throttlePatience {
			r.CancelAt(now)
			l.notBefore = now.Add(throttleRetry)
			break
		}
		l.owed -= n
		l.notBefore = now.Add(wait)
	}
	return l.owed == 0 && !now.Before(l.notBefore)
}

// grantSize is a twentieth of a second's worth, within the burst.
func grantSize(lim *rate.Limiter) int64 {
	n := int64(largestRequestSize)
	if limit := lim.Limit(); limit < rate.Limit(n) {
		n = max(512, int64(limit)/20)
	}
	return max(1, min(n, int64(lim.Burst())))
}

func (l *lane) toSource(r *request, now time.Time) {
	if l.atSource == 0 {
		l.sourceSeen = now
	}
	l.atSource++
	l.src.start(r)
}

func (l *lane) toTarget(r *request, now time.Time) {
	if l.atTarget == 0 {
		l.targetSeen = now
	}
	l.atTarget++
	if r.piece != nil {
		r.piece.pending++
	}
	l.dst.start(r)
}

// collect takes all answers that are there.
func (l *lane) collect(now time.Time) (moved bool) {
	for r := l.src.done(); r != nil; r = l.src.done() {
		l.atSource--
		l.sourceSeen, moved = now, true
		l.meter.requests.Add(1)
		l.sourceAnswered(r, now)
	}
	for r := l.dst.done(); r != nil; r = l.dst.done() {
		l.atTarget--
		l.targetSeen, moved = now, true
		l.meter.requests.Add(1)
		l.targetAnswered(r, now)
	}
	return moved
}

func (l *lane) sourceAnswered(r *request, now time.Time) {
	if r.op == opStatus {
		if r.err != nil {
			r.spans = nil // then the window is read
		}
		l.plan.answer(r.off, r.n, r.spans)
		l.wakeAll()
		if !isLost(r.err) {
			return
		}
	}
	switch {
	case r.err != nil:
		l.stop(fmt.Errorf("%s: %w", source, r.err), now)
	case l.err != nil:
		// What came too late is not written.
	default:
		if err := l.step.read(l, r.piece); err != nil {
			l.stop(err, now)
		}
	}
}

func (l *lane) targetAnswered(r *request, now time.Time) {
	if r.op == opFlush {
		l.keeper.flushed(r.err)
	}
	if r.err != nil && !l.instead(r, now) {
		l.targetGone = l.targetGone || isLost(r.err)
		l.stop(fmt.Errorf("%s: %w", target, r.err), now)
		return
	}
	if r.piece == nil {
		return
	}
	r.piece.pending--
	if r.err != nil {
		return // others do what it could not
	}
	if err := l.step.answered(l, r.piece, r); err != nil {
		l.stop(err, now)
	}
}

// instead writes zeros if the target does not know how to make them; false if that is not the trouble.
func (l *lane) instead(r *request, now time.Time) bool {
	if r.op != opZero || l.err != nil || !errors.Is(r.err, syscall.EOPNOTSUPP) && !errors.Is(r.err, syscall.EINVAL) {
		return false
	}
	r.piece.skipped -= r.n
	l.writeZeros(r.piece, r.off, r.n, now)
	return true
}

// writeZeros writes them out of the piece's own buffer. That buffer may still hold data on its way: only its part for
// just this range is known to be zero, or, for a span that was never read, all of it once cleared.
func (l *lane) writeZeros(p *piece, off, n int64, now time.Time) {
	buf := p.buf
	if p.zero {
		clear(buf)
	} else {
		buf = p.buf[off-p.off:][:n]
	}
	for n > 0 {
		part := min(n, int64(len(buf)))
		l.toTarget(&request{op: opWrite, off: off, n: part, buf: buf[:part], piece: p}, now)
		off, n = off+part, n-part
	}
}

// release makes a finished piece free.
func (l *lane) release(p *piece) { l.free = append(l.free, p) }

// wait blocks until something can have happened, and accounts for the time.
func (l *lane) wait(now time.Time) {
	if l.atSource > 0 && now.Sub(l.sourceSeen) > l.deadline {
		l.stop(fmt.Errorf("%s: %w", source, silent(l.deadline)), now)
		return
	}
	if l.atTarget > 0 && now.Sub(l.targetSeen) > l.deadline {
		l.targetGone = true
		l.stop(fmt.Errorf("%s: %w", target, silent(l.deadline)), now)
		return
	}
	var fds [3]unix.PollFd
	fds[0].Fd, fds[0].Events = l.src.want()
	fds[1].Fd, fds[1].Events = l.dst.want()
	fds[2].Fd, fds[2].Events = int32(l.wake.fd), unix.POLLIN
	if err := poll(fds[:], l.timeout(now)); err != nil {
		l.stop(err, now)
		return
	}
	after := time.Now()
	l.account(after, after.Sub(now))
	l.noticed(fds, after)
}

// noticed hands on what poll saw.
func (l *lane) noticed(fds [3]unix.PollFd, now time.Time) {
	if fds[2].Revents != 0 {
		l.wake.clear()
	}
	if fds[0].Revents != 0 {
		l.sourceSeen = now
		if err := l.src.ready(fds[0].Revents); err != nil {
			l.stop(fmt.Errorf("%s: %w", source, err), now)
		}
	}
	if fds[1].Revents != 0 {
		l.targetSeen = now
		if err := l.dst.ready(fds[1].Revents); err != nil {
			l.targetGone = true
			l.stop(fmt.Errorf("%s: %w", target, err), now)
		}
	}
}

// timeout is the time to the next thing that must be done without anybody's answer; negative if there is none.
func (l *lane) timeout(now time.Time) time.Duration {
	least := time.Duration(-1)
	until := func(t time.Time) {
		if d := max(0, t.Sub(now)) + time.Millisecond; least < 0 || d < least {
			least = d
		}
	}
	if l.atSource > 0 {
		until(l.sourceSeen.Add(l.deadline))
	}
	if l.atTarget > 0 {
		until(l.targetSeen.Add(l.deadline))
	}
	if l.err != nil {
		until(l.drainUntil)
		return least
	}
	if l.throttled(now) {
		until(l.notBefore)
	}
	if l.keeper != nil {
		until(l.keeper.next())
	}
	return least
}

// throttled says whether only the limiter keeps the next piece from being begun.
func (l *lane) throttled(now time.Time) bool {
	return l.next != nil && len(l.free) > 0 && now.Before(l.notBefore)
}

// account says on whom the time was spent: the side that three quarters of all requests wait for.
func (l *lane) account(now time.Time, d time.Duration) {
	share := int64(d) / l.lanes
	switch all := l.atSource + l.atTarget; {
	case l.throttled(now.Add(-d)):
		l.meter.throttleWait.Add(share)
	case all == 0 && l.waits, all > 0 && 4*l.atSource >= 3*all:
		l.meter.sourceWait.Add(share)
	case all > 0 && 4*l.atTarget >= 3*all:
		l.meter.targetWait.Add(share)
	}
}
