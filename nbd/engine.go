package nbd

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/job"
)

// settings are what the task fixes; 0 lets the engine choose.
type settings struct {
	connections, requests, size int // as in Task
	buffers                     int // per request in flight
}

// engine is two opened devices, the threads between them and the memory of those.
type engine struct {
	src, dst *device
	reads    string // the side that src is: the source, or a target that is read back alone
	threads  []*thread
	buffers  *arena
	log      *slog.Logger
	near     depth // what the threads keep in flight at first
	far      depth // what they keep in flight at most
	block    int64 // requests are multiples of this, in bytes
}

// open opens both sides; the second as told, when the source is known.
func open(ctx context.Context, name string, how dialing, second func(src *device) (*device, error)) (*engine, error) {
	began := time.Now()
	src, err := openSource(ctx, name, how)
	if err != nil {
		return nil, fail("open source", of(source, began, err))
	}
	dst, err := second(src)
	if err != nil {
		return nil, fail("open target", of(target, time.Time{}, errors.Join(err, <-src.close())))
	}
	return &engine{src: src, dst: dst, reads: source, block: max(src.minBlock, dst.minBlock)}, nil
}

// fit compares the sizes and returns the size of the disk in bytes.
func (e *engine) fit(capacity int64) (int64, error) {
	const sector = 512
	size := e.src.size
	switch {
	case size == 0:
		return 0, job.Errorf("compare sizes", job.Invalid, "", "source %s has no bytes", e.src.name)
	case size < 0 || size > largestDisk:
		return 0, job.Errorf("compare sizes", job.Invalid, "Check the server: no disk is so large",
			"source %s claims to have %d bytes", e.src.name, size)
	case capacity > 0 && size != capacity && size != (capacity+sector-1)/sector*sector:
		return 0, job.Errorf("compare sizes", job.Invalid, "Check that the source is the right disk",
			"source %s has %d bytes, the disk has %d", e.src.name, size, capacity)
	case capacity > 0:
		size = capacity
	}
	if e.dst.size < size {
		return 0, job.Errorf("compare sizes", job.Invalid, "Name a target of at least that size",
			"target %s has %d bytes, the source has %d", e.dst.name, e.dst.size, size)
	}
	return size, nil
}

// widen opens as many pairs of connections as the settings want and both sides allow, and chooses the queue depths.
func (e *engine) widen(ctx context.Context, want settings, log *slog.Logger) error {
	n := want.connections
	if n <= 0 {
		n = everyCopy.connections()
		if !e.src.multiConn {
			n = 1
		}
	}
	if !e.dst.multiConn {
		n = 1
	}
	both := []*device{e.src, e.dst}
	errs := make([]error, len(both))
	var group sync.WaitGroup
	for i, d := range both {
		group.Go(func() { errs[i] = d.widen(ctx, n) })
	}
	group.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, d := range both {
		if err := errs[i]; err != nil {
			log.Warn("fewer connections than wanted", "device", d.name, "connections", len(d.conns), "wanted", n,
				"err", err)
		}
		n = min(n, len(d.conns))
	}
	e.size(want, n)
	e.threads = make([]*thread, n)
	e.log = log
	log.Debug("chosen", "connections_near", e.near.threads, "connections_far", n,
		"request_bytes_near", e.near.size, "request_bytes_far", e.far.size, "requests_most", e.far.requests,
		"bytes_near", e.near.bytes, "bytes_far", e.far.bytes, "block_bytes", e.block,
		"source", e.src.name, "source_extents", e.src.canStatus, "source_multi_conn", e.src.multiConn,
		"reads_without_memory", e.src.lazyBuffers(),
		"target", e.dst.name, "target_zero", e.dst.canZero, "target_fast_zero", e.dst.canFastZero,
		"target_flush", e.dst.canFlush, "target_multi_conn", e.dst.multiConn)
	return nil
}

// size chooses the size and number of requests for n threads.
func (e *engine) size(want settings, n int) {
	whole := func(size int64) int64 {
		size = min(size, e.src.maxRequest, e.dst.maxRequest)
		return max(e.block, size/e.block*e.block)
	}
	most := max(leastRequests, defaultRequests/n)
	near := min(n, nearConnections, runtime.NumCPU())
	e.near = depth{
		threads: near, requests: most, bytes: nearBytesTo(e.dst.kind) / int64(near),
		size: whole(defaultRequestSize),
	}
	e.near.shares = want.connections == 0 && want.requests == 0
	e.near.gathers = e.near.shares && e.src.kind == NBD && e.dst.kind != NBD
	e.near.relays = e.dst.kind == NBD && want.requests == 0 && want.size == 0
	e.far = depth{
		threads: n, requests: most, bytes: int64(most) * whole(farRequestSize),
		size: whole(farRequestSize),
	}
	if want.connections > 0 {
		e.near.threads = n
	}
	if want.requests > 0 {
		e.near.requests, e.far.requests = want.requests, want.requests
		e.near.bytes = e.far.bytes
	}
	if want.size > 0 {
		e.near.size = whole(int64(want.size))
		e.far.size = e.near.size
	}
}

// nearBytesTo is how many bytes are in flight from a source that answers at once to a target of that kind, over all
// connections.
func nearBytesTo(target Kind) int64 {
	switch target {
	case Block:
		return blockBytes
	case File:
		return fileBytes
	default:
		return nearBytes
	}
}

// ready makes the threads. Only the first asks for block status and has the checkpointer.
func (e *engine) ready(s step, common shared, checkpointer *checkpointer, buffers int) error {
	n := int64(len(e.threads))
	each := e.far.size * int64(buffers)
	most, atFirst := max(each, memoryPerCopy/n), int64(memoryAtFirst)
	if e.dst.kind == Block {
		most, atFirst = max(each, blockMemoryMost/n), blockMemory
	}
	count := int64(e.far.requests)
	mem, err := newArena(n*count*each + mostPlain)
	if err != nil {
		return err
	}
	e.buffers = mem
	common.zeros = mem.take(max(min(mostPlain, e.dst.maxRequest)/e.block*e.block, min(e.block, mostPlain)))
	common.working = &atomic.Int64{}
	common.block, common.reads = e.block, e.reads
	common.wakeAll, common.wakeWorking = e.wakeAll, e.wakeWorking
	if checkpointer != nil {
		checkpointer.wake, common.backlog = e.wakeAll, &checkpointer.backlog
	}
	common.queueDepth = newQueueDepth(e.steps(), everyCopy, common.plan, time.Now(), e.queueDepthChanged)
	for i := range e.threads {
		w, err := newWake()
		if err != nil {
			return err
		}
		t := &thread{
			shared: &common, number: int64(i), step: s, src: e.src.conns[i], dst: e.dst.conns[i], wake: w,
			bufs: newBuffers(each, buffers, most, atFirst/int64(e.near.threads)),
		}
		e.threads[i] = t
		if e.dst.kind == Block {
			if err := t.bufs.addHuge(atFirst/int64(e.near.threads), e.near.size*int64(buffers)); err != nil {
				return err
			}
		}
		t.bufs.add(mem, count, each)
		if i == 0 {
			t.checkpointer, t.asks = checkpointer, true
		}
	}
	return nil
}

// steps are the queue depths that are tried one after the other. First come twice as many connections each time, up to
// all of them, for each costs threads at both ends. Then come four deep steps: eight times as much in flight, what
// suits a far server, what suits a far server with memory to spare, and the most allowed.
func (e *engine) steps() []depth {
	out := []depth{e.near}
	wide := e.near
	wide.shares, wide.gathers = false, false
	for wide.threads < e.far.threads {
		wide.threads = min(2*wide.threads, e.far.threads)
		if 3*wide.threads > 2*e.far.threads {
			wide.threads = e.far.threads // the few that are left are not worth a step of their own
		}
		out = append(out, wide)
	}
	if e.far.bytes > e.near.bytes || e.far.size > e.near.size {
		middle, deep, deeper, far := e.far, e.far, e.far, e.far
		if e.far.size > e.near.size { // else the task fixes the size of requests
			deep.size = min(e.far.size, deepRequestSize)
		}
		deep.bytes = min(e.far.bytes, deepRequests*deepRequestSize)
		deeper.bytes = min(e.far.bytes, deepRequests*farRequestSize)
		middle.bytes = min(deep.bytes, 8*e.near.bytes*int64(e.near.threads)/int64(e.far.threads))
		middle.size = deep.size
		middle.deep, deep.deep, deeper.deep, far.deep = true, true, true, true
		out = append(out, middle, deep, deeper, far)
	}
	return out
}

// queueDepthChanged is called with the lock of the queue depth held. fastest is the fastest chunk of the last window.
func (e *engine) queueDepthChanged(now depth, fastest time.Duration) {
	e.log.Debug("queue depth changed", "connections", now.threads, "requests", now.requests, "request_bytes", now.size,
		"chunk_takes", fastest)
	e.wakeAll()
}

func (e *engine) wakeAll() {
	for _, t := range e.threads {
		t.wake.set()
	}
}

// wakeWorking leaves threads asleep that are to pause: each that wakes and sleeps again costs Go's monitor its own
// sleep (ADR 16).
func (e *engine) wakeWorking() {
	for _, t := range e.threads {
		if !t.toPause() {
			t.wake.set()
		}
	}
}

// everyCopy is shared by all copies of this process.
var everyCopy = &commons{} //nolint:gochecknoglobals // the copies share the machine, which is global too

// run lets all threads work until the plan is done or one of them fails. It returns the first error.
func (e *engine) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make(chan error, len(e.threads))
	for _, t := range e.threads {
		go func() {
			err := t.run(ctx)
			if err != nil {
				cancel(err)
			}
			results <- err
		}()
	}
	defer e.threads[0].queueDepth.close()
	failed := false
	for range e.threads {
		failed = <-results != nil || failed
	}
	if failed {
		return context.Cause(ctx)
	}
	return nil
}

// targetGone says whether the target stopped answering on any thread.
func (e *engine) targetGone() bool {
	for _, t := range e.threads {
		if t != nil && t.targetGone {
			return true
		}
	}
	return false
}

// close closes both sides and frees the memory. It waits at most twice closeGrace. If the kernel holds a local file
// longer, a goroutine frees the memory when the kernel releases the file.
func (e *engine) close() error {
	ended := make(chan error, 1)
	src, dst := e.src.close(), e.dst.close()
	go func() {
		errSrc, errDst := <-src, <-dst
		for _, t := range e.threads {
			if t != nil {
				t.wake.close()
				for _, mem := range t.bufs.extra {
					errDst = firstOf(errDst, mem.free())
				}
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

// firstOf returns the first error that is not nil.
func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
