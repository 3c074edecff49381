package nbd

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"time"

	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
)

// effort is how much is done at once.
type effort struct {
	connections, requests, size int // as in Task
	buffers                     int // per request in flight
}

// engine is two opened devices, the lanes between them and the memory of those.
type engine struct {
	src, dst *device
	lanes    []*lane
	buffers  *arena
	request  int64 // bytes of the largest request
	requests int   // in flight on each lane
	block    int64 // requests are multiples of this
}

// open opens both sides; the second as told, when the source is known.
func open(ctx context.Context, source string, how dialing, second func(src *device) (*device, error)) (*engine, error) {
	src, err := openSource(ctx, source, how)
	if err != nil {
		return nil, fail("open source", err)
	}
	dst, err := second(src)
	if err != nil {
		return nil, fail("open target", errors.Join(err, <-src.close()))
	}
	return &engine{src: src, dst: dst, block: max(src.minBlock, dst.minBlock)}, nil
}

// fit compares the sizes and returns the size of the disk in bytes.
func (e *engine) fit(capacity int64) (int64, error) {
	const sector = 512
	size := e.src.size
	switch {
	case size == 0:
		return 0, job.Errorf("compare sizes", job.Invalid, "", "source %s has no bytes", e.src.name)
	case capacity > 0 && size != capacity && size != (capacity+sector-1)/sector*sector:
		return 0, job.Errorf("compare sizes", job.Invalid, "Check that the source is the disk that is meant.", "source %s has %d bytes, the disk has %d", e.src.name, size, capacity)
	case capacity > 0:
		size = capacity
	}
	if e.dst.size < size {
		return 0, job.Errorf("compare sizes", job.Invalid, "Name a target of at least that size.", "target %s has %d bytes, the source has %d", e.dst.name, e.dst.size, size)
	}
	return size, nil
}

// widen opens as many pairs of connections as are wanted and allowed, and decides on the size of requests.
func (e *engine) widen(ctx context.Context, want effort, log *slog.Logger) error {
	n := want.connections
	if n <= 0 {
		n = min(defaultConnections, max(2, runtime.NumCPU()))
		if !e.src.multiConn {
			n = 1
		}
	}
	if !e.dst.multiConn {
		n = 1
	}
	for _, d := range []*device{e.src, e.dst} {
		err := d.widen(ctx, n)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			log.Warn("fewer connections than wanted", "device", d.name, "connections", len(d.conns), "wanted", n, "err", err)
		}
		n = min(n, len(d.conns))
	}
	e.request = min(int64(want.size), e.src.maxRequest, e.dst.maxRequest)
	e.request = max(e.block, e.request/e.block*e.block)
	e.requests = max(1, min(want.requests, int(memoryPerCopy/(int64(n*want.buffers)*e.request))))
	e.lanes = make([]*lane, n)
	return nil
}

// ready makes the lanes. Only the first asks for block status and has the keeper.
func (e *engine) ready(s step, plan *planner, m *Meter, limiter *rate.Limiter, deadline time.Duration, keeper *keeper, buffers int) error {
	each := int64(e.requests*buffers) * e.request
	mem, err := newArena(each * int64(len(e.lanes)))
	if err != nil {
		return err
	}
	e.buffers = mem
	common := &shared{plan: plan, meter: m, limiter: limiter, deadline: deadline, lanes: int64(len(e.lanes)), wakeAll: e.wakeAll}
	for i := range e.lanes {
		w, err := newWake()
		if err != nil {
			return err
		}
		l := &lane{shared: common, step: s, src: e.src.conns[i], dst: e.dst.conns[i], wake: w}
		for range e.requests {
			p := &piece{buf: mem.take(e.request)}
			if buffers > 1 {
				p.other = mem.take(e.request)
			}
			l.free = append(l.free, p)
		}
		if i == 0 {
			l.keeper, l.asks = keeper, true
		}
		e.lanes[i] = l
	}
	return nil
}

func (e *engine) wakeAll() {
	for _, l := range e.lanes {
		l.wake.set()
	}
}

// run lets all lanes work until the plan is done or one of them fails. The error is the first one.
func (e *engine) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make(chan error, len(e.lanes))
	for _, l := range e.lanes {
		go func() {
			err := l.run(ctx)
			if err != nil {
				cancel(err)
			}
			results <- err
		}()
	}
	failed := false
	for range e.lanes {
		failed = <-results != nil || failed
	}
	if failed {
		return context.Cause(ctx)
	}
	return nil
}

// targetGone says whether the target stopped answering on any lane.
func (e *engine) targetGone() bool {
	for _, l := range e.lanes {
		if l != nil && l.targetGone {
			return true
		}
	}
	return false
}

// close gives everything back. If the kernel does not let go of a local file it does not wait for that, and the memory
// stays until it does.
func (e *engine) close() error {
	ended := make(chan error, 1)
	src, dst := e.src.close(), e.dst.close()
	go func() {
		errSrc, errDst := <-src, <-dst
		for _, l := range e.lanes {
			if l != nil {
				l.wake.close()
			}
		}
		if e.buffers != nil {
			errDst = firstOf(errDst, e.buffers.free())
		}
		ended <- firstOf(errDst, errSrc)
	}()
	t := time.NewTimer(2 * closeGrace)
	defer t.Stop()
	select {
	case err := <-ended:
		return err
	case <-t.C:
		return nil
	}
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
