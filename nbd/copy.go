package nbd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Copy copies one disk and returns when the target has flushed it. When ctx ends, it returns within about two seconds.
//
// If it ends early for any reason and the target still answers, it flushes what the target acknowledged and records it
// in the checkpoint, and the next call goes on there. A checkpoint that is damaged (Corrupt), or that belongs to
// another copy or a newer version (Conflict), is moved aside and nothing is copied.
//
// The kind of an error tells its cause: Invalid if sizes or ranges do not fit, Permission for a target that is
// read-only, Conflict for a target that another transfer writes to, NoSpace, IO, Unavailable, Timeout, Cancelled.
// errors.Is finds the errno of the kernel or the server. Copy may run for many disks at the same time.
func Copy(ctx context.Context, t Task, m *Meter) (Result, error) {
	defer everyCopy.join()()
	began := time.Now()
	defer m.start()()
	t = t.withDefaults()
	c := &copier{task: t, meter: m}
	err := c.copy(ctx)
	counters := m.Counters()
	r := Result{
		Counters: counters,
		Capacity: c.capacity,
		Resumed:  counters.ResumedTransferred + counters.ResumedSkipped,
		Duration: time.Since(began),
		Threads:  c.count,
		Complete: err == nil,
	}
	c.fill(&r, err)
	return r, ended(ctx, "copy "+Redact(t.Source)+" to "+t.targetName(), err)
}

// fill adds to the result what is known once the copy has begun.
func (c *copier) fill(r *Result, err error) {
	if c.track == nil {
		return
	}
	r.Resent, r.Bad, r.Reconnects = c.track.resent(), c.faults.ranges(), c.lost
	if err == nil && c.track.digests != nil && len(c.track.unhashed) == 0 {
		r.Digests = c.track.digests
		r.Digests.scope, r.Digests.sourceUnverified = c.scope, c.sourceUnverified
	}
	if err == nil {
		r.Transferred, r.Skipped = c.track.transferred, c.track.skipped
		r.BLAKE3 = c.track.tree.root()
	}
}

// ended gives the error of a whole operation its kind. If ctx has ended, the kind says how: cancelled, or by a
// deadline.
func ended(ctx context.Context, op string, err error) error {
	var known *job.Error
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) && !errors.As(err, &known) {
		return &job.Error{Op: op, Kind: job.KindOf(ctx.Err()), Err: err}
	}
	return fail(op, err)
}

// copier is one call of Copy. As a step it reads, splits off zeros, and writes.
type copier struct {
	task         Task
	meter        *Meter
	engine       *engine     // nil between two passes
	target       *Target     // of the engine
	capacity     int64       // of the disk, bytes
	scope        job.Extents // the ranges of this round
	track        *tracker
	checkpointer *checkpointer
	faults       *faults
	digests      *Digests // only to hash: the tracker holds the sums; nil if not wanted or not possible
	tree         *tree    // only to hash: the tracker holds the nodes; nil if not wanted or not possible
	skipZero     bool     // zeros need not be written
	count        int      // threads; 0 as long as nothing can have been written

	unverified       []look // what to read again before writing
	sourceUnverified bool   // an earlier attempt may have read another source
	lost             int    // how often connections were lost
}

// copy makes one pass after the other: a pass ends when all is done, or a connection is lost.
func (c *copier) copy(ctx context.Context) (err error) {
	if err := c.task.Check(); err != nil {
		return err
	}
	if err := c.open(ctx); err != nil {
		return err
	}
	defer func() {
		if c.engine != nil {
			err = firstOf(err, c.engine.close())
		}
	}()
	if err := c.inspect(); err != nil {
		return err
	}
	patience := newPatience(c.task.Reconnect)
	for {
		before, unverified, durable := c.track.bytes(), len(c.unverified), c.checkpointer.saved.bytes()
		err := c.pass(ctx)
		if err == nil {
			return c.conclude()
		}
		if ctx.Err() != nil || !c.canReconnect(err) {
			return err
		}
		patience.lost(c.track.bytes() > before || len(c.unverified) < unverified, time.Now())
		if c.checkpointer.saved.bytes() == durable && len(c.unverified) == unverified {
			c.checkpointer.flushMoreOften()
		}
		c.task.Log.Warn("a connection was lost, the copy reconnects", "err", err, "durable_bytes", c.track.bytes())
		if rerr := c.reopen(ctx, patience); rerr != nil {
			return fmt.Errorf("%w (after: %w)", rerr, err)
		}
	}
}

func (c *copier) open(ctx context.Context) (err error) {
	opened := c.meter.sourceQuiet.asked()
	defer func() { opened() }()
	c.engine, err = open(ctx, c.task.Source, c.dialing(), func(src *device) (*device, error) {
		opened()
		opened = c.meter.targetQuiet.asked()
		return c.openTarget(ctx, src)
	})
	return err
}

// inspect finds out what to copy, before anything is written.
func (c *copier) inspect() error {
	if err := c.measure(); err != nil {
		return err
	}
	return c.resume()
}

// pass copies what is left over one set of connections. If it fails, it records what is durable.
func (c *copier) pass(ctx context.Context) error {
	if err := c.recheck(ctx); err != nil {
		return err
	}
	if err := c.prepare(ctx); err != nil {
		return err
	}
	err := c.engine.run(ctx)
	c.checkpointer.saving.Wait()
	if err == nil {
		err = c.faults.err()
	}
	if err == nil {
		err = c.lastFlush(ctx)
	}
	if err != nil {
		c.salvage(ctx)
	}
	return err
}

// canReconnect says whether the copy may succeed over new connections.
func (c *copier) canReconnect(err error) bool {
	return c.task.Reconnect >= 0 && isCurable(err) && (c.engine.src.kind == NBD || c.engine.dst.kind == NBD)
}

// reopen opens both sides again. Data that was acknowledged and never flushed counts as lost, for the target may be
// another process now.
func (c *copier) reopen(ctx context.Context, p *patience) error {
	err := c.engine.close()
	c.engine = nil
	for err == nil {
		if err := p.wait(ctx); err != nil {
			return err
		}
		err := c.open(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil || !isUnreachable(err) {
			return err
		}
		p.last = err
	}
	if err != nil {
		return err
	}
	c.lost++
	capacity := c.capacity
	if err := c.measure(); err != nil {
		return err
	}
	if c.capacity != capacity {
		return job.Errorf("compare sizes", job.Conflict, "Find out why: this is not the disk that the copy began with",
			"source %s had %d bytes and now has %d", c.engine.src.name, capacity, c.capacity)
	}
	return nil
}

func (c *copier) dialing() dialing {
	return dialing{c.task.TLS, c.task.Deadline, c.task.Engine, c.task.OnlyRaw}
}

// openTarget opens the target when the source is open: only then the size of a target that is to be made is known.
func (c *copier) openTarget(ctx context.Context, src *device) (*device, error) {
	size := src.size
	if c.task.Capacity > 0 {
		size = c.task.Capacity
	}
	target, err := c.task.Target.Open(ctx, size)
	if err != nil {
		return nil, err
	}
	c.task.TargetIsZero = c.task.TargetIsZero || target.fresh
	c.target = target
	return target.device(ctx, c.dialing(), true)
}

// measure compares the opened devices with the task, before anything is written.
func (c *copier) measure() (err error) {
	t, e := c.task, c.engine
	if e.dst.readOnly {
		return job.Errorf("open target", job.Permission, "Export it writable", "target %s is read-only", e.dst.name)
	}
	if c.capacity, err = e.fit(t.Capacity); err != nil {
		return err
	}
	if b := e.dst.minBlock; c.capacity%b != 0 {
		return job.Errorf("compare sizes", job.Invalid, "Export the target with smaller blocks, or name another one",
			"target %s takes whole blocks of %d bytes only, and the disk has %d bytes", e.dst.name, b, c.capacity)
	}
	if err := errors.Join(t.Only.Check(c.capacity), t.Allocated.Check(c.capacity)); err != nil {
		return err
	}
	c.scope = job.Whole(c.capacity)
	if t.restricted() {
		c.scope = t.Only.Merge(0)
	}
	c.scope = c.scope.Align(e.block, min(e.src.size, e.dst.size))
	c.skipZero = (t.TargetIsZero || e.dst.kind == Null) && !t.restricted()
	counted := c.scope
	if t.Allocated != nil {
		counted = c.scope.Within(c.allocated())
	}
	c.meter.toTransfer.Store(counted.Sum())
	return nil
}

// allocated are the ranges that can hold data, in whole blocks and in whole units of the digests.
func (c *copier) allocated() job.Extents {
	return append(job.Extents{}, c.task.Allocated.Align(max(c.engine.block, zeroUnit), c.engine.src.size)...)
}

// resume goes on from the checkpoint if there is one.
func (c *copier) resume() error {
	t := c.task
	if !t.NoDigest {
		c.digests = newDigests(c.capacity)
	}
	if t.Receipt {
		c.tree = newTree(c.capacity)
	}
	c.faults = &faults{}
	c.track = &tracker{
		meter:            c.meter,
		progressSnapshot: progressSnapshot{digests: c.digests.clone(), tree: c.tree.clone()},
	}
	head, err := c.head()
	if err == nil && t.Checkpoint != "" {
		err = c.load(head)
	}
	if err == nil && t.OnlyRaw && (len(c.track.done) == 0 || c.track.done[0].Offset > 0) {
		err = c.target.checkFormat() // else it begins as we wrote it
	}
	if err != nil {
		return err
	}
	c.checkpointer = newCheckpointer(t, head, c.track, c.meter, time.Now())
	c.checkpointer.idle = t.Checkpoint == "" && (c.engine.dst.kind != NBD || t.Reconnect < 0)
	if !c.checkpointer.idle {
		c.checkpointer.backlog.most = max(mostUnflushed, c.capacity/100, 2*t.CheckpointBytes)
	}
	return nil
}

// head is what a checkpoint of this copy says beside its progress.
func (c *copier) head() (checkpoint, error) {
	head := checkpoint{identity: c.task.Identity, plan: fingerprint(c.task), capacity: c.capacity}
	if head.identity == "" {
		to, err := c.target.identity()
		if err != nil {
			return head, err
		}
		head.identity = c.engine.src.content + toTarget + to
	}
	return head, nil
}

// load takes over the progress of the checkpoint if there is one, and chooses what to look at again.
func (c *copier) load(head checkpoint) error {
	found, err := load(c.task.Checkpoint, head)
	if err != nil {
		return err
	}
	if found.done == nil {
		found.progressSnapshot = c.track.progressSnapshot // nothing is done yet
	}
	c.track.resume(found.progressSnapshot)
	c.sourceUnverified = found.done != nil && c.task.Identity == "" && c.engine.src.kind == NBD
	c.unverified = looks(found.progressSnapshot, max(zeroUnit, c.engine.block))
	if c.digests == nil || found.digests == nil {
		c.dropDigests() // they would not cover everything
	}
	if c.tree == nil || found.tree == nil {
		c.dropTree()
	}
	return nil
}

// dropDigests ends the digests, when some of the disk is not in them.
func (c *copier) dropDigests() {
	c.digests = nil
	c.track.mu.Lock()
	defer c.track.mu.Unlock()
	c.track.digests, c.track.unhashed = nil, nil
}

// dropTree ends the BLAKE3 tree, when some of the disk is not in it.
func (c *copier) dropTree() {
	if c.tree != nil {
		c.task.Log.Warn("the BLAKE3 digest can't be made: requests are too small, " +
			"or the checkpoint has none of what was copied before")
	}
	c.tree = nil
	c.track.mu.Lock()
	defer c.track.mu.Unlock()
	c.track.tree = nil
}

// prepare plans what is left to copy, and makes the threads.
func (c *copier) prepare(ctx context.Context) error {
	t, e := c.task, c.engine
	if err := e.widen(ctx, settings{t.Connections, t.Requests, t.RequestSize, 1}, t.Log); err != nil {
		return err
	}
	c.count = len(e.threads)
	c.checkpointer.restart(time.Now())
	c.track.mu.Lock()
	todo := c.scope.Cut(c.track.done).Cut(c.faults.ranges().Align(e.block, e.src.size))
	c.track.mu.Unlock()
	var allocated job.Extents
	if t.Allocated != nil {
		allocated = c.allocated()
	}
	if e.near.size%zeroUnit != 0 {
		c.dropDigests() // a unit would be read in parts
		c.dropTree()
	}
	plan := newPlanner(todo, allocated, e.near.size, max(e.block, zeroUnit), e.src.canStatus)
	if !c.skipZero && !e.dst.canZero {
		plan.zerosTravel()
	}
	// An incremental round does not zero data of the round before that it is about to overwrite (ADR 15).
	plan.useBulkZeros = e.dst.canFastZero && !c.skipZero && !t.restricted()
	common := shared{
		plan: plan, meter: c.meter, faults: c.faults, limiters: t.Limiters, budget: t.Budget, deadline: t.Deadline,
	}
	return e.ready(c, common, c.checkpointer, 1)
}

func (c *copier) begin(t *thread, chunk *chunk) {
	now := time.Now()
	switch {
	case !chunk.zero:
		t.toSource(t.request(opRead, chunk.off, chunk.n, chunk.buf, chunk), now)
	case c.skipZero:
		chunk.skipped = chunk.n
		c.complete(t, chunk)
	case chunk.bulkZero:
		r := t.request(opZero, chunk.off, chunk.n, nil, chunk)
		r.fast = true
		t.toTarget(r, now)
	case c.zeroes(chunk):
		chunk.skipped = chunk.n
		t.toTarget(t.request(opZero, chunk.off, chunk.n, nil, chunk), now)
	default:
		t.writeZeros(chunk, chunk.off, chunk.n, now)
	}
}

// zeroes says whether the target is asked to make the zeros of a chunk. The last try writes them instead.
func (c *copier) zeroes(chunk *chunk) bool { return c.engine.dst.canZero && chunk.tries < smallTries-1 }

func (c *copier) read(t *thread, chunk *chunk) error {
	now := time.Now()
	shortest, zeroes := shortestZeroRun, c.zeroes(chunk)
	if !c.skipZero && !zeroes {
		shortest = len(chunk.buf) + 1 // zeros travel like data, so they are not split off
	}
	_ = zeroRuns(chunk.buf, chunk.off, max(zeroUnit, int(c.engine.block)), shortest, func(r run) error {
		off, n, b := chunk.off+int64(r.at), int64(r.n), chunk.buf[r.at:][:r.n]
		switch {
		case r.zero && c.skipZero:
			chunk.skipped += n
		case r.zero && zeroes:
			chunk.skipped += n
			t.toTarget(t.request(opZero, off, n, nil, chunk), now)
		default:
			t.toTarget(t.request(opWrite, off, n, b, chunk), now)
		}
		if !r.zero {
			chunk.hashes.sums = c.digests.appendSums(chunk.hashes.sums, off, b) // here, while the target works
		}
		return nil
	})
	// Only if most of the chunk is data: for a little data among zeros, more in flight costs more than it gains.
	t.plan.writing.Store(2*chunk.skipped < chunk.n)
	chunk.hashes.nodes = c.tree.subtrees(chunk.off, chunk.buf)
	if chunk.pending == 0 {
		c.complete(t, chunk)
	}
	return nil
}

func (c *copier) answered(t *thread, chunk *chunk) error {
	c.complete(t, chunk)
	return nil
}

func (c *copier) complete(t *thread, chunk *chunk) {
	if chunk.bulkZero {
		for _, h := range t.plan.bulkZeroAnswered(chunk.off, true) {
			c.track.add(plannedRange{off: h.Offset, n: h.Length, zero: true}, h.Length,
				hashes{nodes: c.tree.zeros(h.Offset, h.Length)})
		}
		t.wakeWorking() // the data of the bulk zero can be copied now
		t.finish(chunk)
		return
	}
	if chunk.zero {
		chunk.hashes.nodes = c.tree.zeros(chunk.off, chunk.n)
	}
	c.track.add(chunk.plannedRange, chunk.skipped, chunk.hashes)
	t.finish(chunk)
}

// conclude ends a copy whose data is all durable: it removes the checkpoint, or with KeepCheckpoint records the end. If
// that can't be written, what was recorded before is still true.
func (c *copier) conclude() error {
	raise(&c.meter.durable, c.track.bytes())
	switch {
	case c.task.Checkpoint == "":
		return nil
	case c.task.KeepCheckpoint:
		s, _ := c.track.take()
		if err := c.checkpointer.save(s); err != nil {
			c.task.Log.Warn("the end of the copy was not recorded", "path", c.task.Checkpoint, "err", err)
		}
		return nil
	default:
		return RemoveCheckpoint(c.task.Checkpoint)
	}
}

// lastFlush flushes the target after a pass that copied everything.
func (c *copier) lastFlush(ctx context.Context) error {
	if c.checkpointer.failed {
		return job.Errorf("flush target "+c.engine.dst.name, job.IO, "",
			"an earlier flush failed, so what was written before it may be lost")
	}
	if err := c.flush(ctx, c.task.Deadline); err != nil {
		return fail("flush target "+c.engine.dst.name, of(target, time.Time{}, err))
	}
	return nil
}

// salvage flushes and records what the target acknowledged before a pass failed. If that is not possible, it keeps the
// last durable progress, with the count of the bytes sent: the rest is copied again, so this is no error of its own.
func (c *copier) salvage(ctx context.Context) {
	snapshot, _ := c.track.take()
	if err := c.rescueFlush(ctx); err != nil {
		c.task.Log.Warn("the newest bytes are not known to be durable and will be copied again",
			"target", c.engine.dst.name, "err", err)
		sent := snapshot.sent
		snapshot = c.checkpointer.saved
		snapshot.sent = sent
	}
	if err := c.checkpointer.save(snapshot); err != nil {
		c.task.Log.Warn("last checkpoint was not written, the newest bytes will be copied again",
			"path", c.task.Checkpoint, "err", err)
	}
	c.track.fallBack(c.checkpointer.saved)
}

// rescueFlush is the flush after a pass that failed. It refuses after a failed flush: a second one would prove nothing.
func (c *copier) rescueFlush(ctx context.Context) error {
	switch {
	case c.checkpointer.failed:
		return errors.New("an earlier flush failed")
	case c.engine.targetGone():
		return errors.New("the target does not answer")
	}
	patience := c.task.Deadline
	if ctx.Err() != nil {
		patience = flushGrace
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	return c.flush(ctx, patience)
}

// flush flushes the target after the threads have ended. One flush is enough: there are several connections only if a
// flush on one of them covers all.
func (c *copier) flush(ctx context.Context, patience time.Duration) error {
	err := await(ctx, c.engine.dst.conns[0], &request{op: opFlush}, patience, &c.meter.targetQuiet)
	if err != nil {
		c.checkpointer.failed = true
	}
	return err
}
