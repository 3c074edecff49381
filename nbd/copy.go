package nbd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Copy copies one disk and returns when the target has flushed it. It ends early with ctx, within about two seconds.
//
// If it ends early for whatever reason, what the target acknowledged is flushed and recorded in the checkpoint as long
// as the target answers, so that the next call goes on there. A checkpoint that is damaged (Corrupt), or that belongs to
// another copy or a newer version (Conflict), is moved aside and nothing is copied.
//
// Errors have the kind that the cause asks for: Invalid if sizes or ranges do not fit, Permission for a target that is
// read-only, Conflict for one that another transfer writes to, NoSpace, IO, Unavailable, Timeout, Cancelled. An errno
// that the kernel or a server gave is found by errors.Is. Copy may run for many disks at the same time.
func Copy(ctx context.Context, t Task, m *Meter) (Result, error) {
	began := time.Now()
	t = t.withDefaults()
	c := &copier{task: t, meter: m}
	err := c.copy(ctx)
	counters := m.Counters()
	r := Result{
		Counters: counters,
		Capacity: c.capacity,
		Resumed:  counters.ResumedTransferred + counters.ResumedSkipped,
		Duration: time.Since(began),
		Lanes:    c.count,
	}
	if c.track != nil {
		r.Resent = c.track.resent()
	}
	return r, ended(ctx, "copy "+Redact(t.Source)+" to "+Redact(t.Target), err)
}

// ended gives the error of a whole operation its kind; that of an ended context tells what ended it.
func ended(ctx context.Context, op string, err error) error {
	var known *job.Error
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) && !errors.As(err, &known) {
		return &job.Error{Op: op, Kind: job.KindOf(ctx.Err()), Err: err}
	}
	return fail(op, err)
}

// copier is one call of Copy. As a step it reads, splits off zeros, and writes.
type copier struct {
	task     Task
	meter    *Meter
	engine   *engine
	capacity int64
	scope    job.Extents // all that this round is about
	head     checkpoint
	track    *tracker
	keeper   *keeper // nil without a checkpoint
	skipZero bool    // zeros need not be written
	count    int     // lanes; 0 as long as nothing can have been written
	created  bool    // the target is our own
}

func (c *copier) copy(ctx context.Context) (err error) {
	if err := c.task.check(); err != nil {
		return err
	}
	c.engine, err = open(ctx, c.task.Source, c.dialing(), func(src *device) (*device, error) { return c.openTarget(ctx, src) })
	if err != nil {
		return errors.Join(err, c.undo())
	}
	defer func() {
		err = firstOf(err, c.engine.close())
		if err != nil && c.count == 0 {
			err = firstOf(err, c.undo())
		}
	}()
	if err := c.measure(); err != nil {
		return err
	}
	todo, err := c.resume()
	if err != nil {
		return err
	}
	if err := c.prepare(ctx, todo); err != nil {
		return err
	}
	return c.finish(ctx, c.engine.run(ctx))
}

func (c *copier) dialing() dialing { return dialing{c.task.TLSFiles, c.task.Deadline} }

// openTarget makes the target first if it is wanted and not there.
func (c *copier) openTarget(ctx context.Context, src *device) (*device, error) {
	t := &c.task
	_, err := os.Lstat(t.Target)
	if t.Create && !isURI(t.Target) && errors.Is(err, os.ErrNotExist) {
		if strings.HasPrefix(filepath.Clean(t.Target), "/dev/") {
			return nil, job.Errorf("create target", job.NotFound, "", "there is no device %s", t.Target)
		}
		size := src.size
		if t.Capacity > 0 {
			size = t.Capacity
		}
		if err := CreateTarget(ctx, t.Target, size); err != nil {
			return nil, err
		}
		c.created, t.TargetIsZero = true, true
	}
	return openTarget(ctx, t.Target, c.dialing())
}

// undo removes a target that we made and that holds nothing.
func (c *copier) undo() error {
	if !c.created {
		return nil
	}
	return os.Remove(c.task.Target)
}

// measure compares what was opened with what is wanted, before anything is written.
func (c *copier) measure() (err error) {
	t, e := c.task, c.engine
	if e.dst.readOnly {
		return job.Errorf("open target", job.Permission, "Export it writable.", "target %s is read-only", e.dst.name)
	}
	if c.capacity, err = e.fit(t.Capacity); err != nil {
		return err
	}
	if err := errors.Join(t.Only.Check(c.capacity), t.Allocated.Check(c.capacity)); err != nil {
		return err
	}
	c.scope = job.Whole(c.capacity)
	if t.restricted() {
		c.scope = t.Only.Merge(0)
	}
	c.scope = c.scope.Align(e.block, min(e.src.size, e.dst.size))
	c.skipZero = t.TargetIsZero && !t.restricted()
	counted := c.scope
	if t.Allocated != nil {
		counted = c.scope.Within(t.Allocated.Align(e.block, e.src.size))
	}
	c.meter.toTransfer.Store(counted.Sum())
	return nil
}

// resume finds out what is left to do.
func (c *copier) resume() (job.Extents, error) {
	c.track = &tracker{meter: c.meter}
	if c.task.Checkpoint == "" {
		return c.scope, nil
	}
	identity := c.task.Identity
	if identity == "" {
		identity = c.engine.src.identity + " > " + c.engine.dst.identity
	}
	c.head = checkpoint{identity: identity, plan: fingerprint(c.task), capacity: c.capacity}
	found, err := load(c.task.Checkpoint, c.head)
	if err != nil {
		return nil, err
	}
	c.track.resume(found.standing)
	c.keeper = newKeeper(c.task, c.head, c.track, c.meter, time.Now())
	return c.scope.Cut(found.done), nil
}

func (c *copier) prepare(ctx context.Context, todo job.Extents) error {
	t, e := c.task, c.engine
	if err := e.widen(ctx, effort{t.Connections, t.Requests, t.RequestSize, 1}, t.Log); err != nil {
		return err
	}
	c.count = len(e.lanes)
	var allocated job.Extents
	if t.Allocated != nil {
		allocated = t.Allocated.Align(e.block, e.src.size)
		if allocated == nil {
			allocated = job.Extents{}
		}
	}
	plan := newPlanner(todo, allocated, e.request, e.block, e.src.canStatus)
	return e.ready(c, plan, c.meter, t.Limiter, t.Deadline, c.keeper, 1)
}

func (c *copier) begin(l *lane, p *piece) {
	now := time.Now()
	switch {
	case !p.zero:
		l.toSource(&request{op: opRead, off: p.off, n: p.n, buf: p.buf[:p.n], piece: p}, now)
	case c.skipZero:
		p.skipped = p.n
		c.complete(l, p)
	case c.engine.dst.canZero:
		p.skipped = p.n
		l.toTarget(&request{op: opZero, off: p.off, n: p.n, piece: p}, now)
	default:
		l.writeZeros(p, p.off, p.n, now)
	}
}

func (c *copier) read(l *lane, p *piece) error {
	now := time.Now()
	shortest := shortestZeroRun
	if !c.skipZero && !c.engine.dst.canZero {
		shortest = len(p.buf) + 1 // zeros travel like data, so they need no splitting
	}
	_ = zeroRuns(p.buf[:p.n], p.off, max(zeroUnit, int(c.engine.block)), shortest, func(r run) error {
		off, n := p.off+int64(r.at), int64(r.n)
		switch {
		case r.zero && c.skipZero:
			p.skipped += n
		case r.zero && c.engine.dst.canZero:
			p.skipped += n
			l.toTarget(&request{op: opZero, off: off, n: n, piece: p}, now)
		default:
			l.toTarget(&request{op: opWrite, off: off, n: n, buf: p.buf[r.at:][:r.n], piece: p}, now)
		}
		return nil
	})
	if p.pending == 0 {
		c.complete(l, p)
	}
	return nil
}

func (c *copier) answered(l *lane, p *piece, _ *request) error {
	if p.pending == 0 {
		c.complete(l, p)
	}
	return nil
}

func (c *copier) complete(l *lane, p *piece) {
	c.track.add(p.span, p.skipped)
	l.release(p)
}

// finish makes durable what there is, whether all is there or not.
func (c *copier) finish(ctx context.Context, err error) error {
	if c.keeper != nil {
		c.keeper.saving.Wait()
	}
	if err != nil {
		c.salvage(ctx)
		return err
	}
	if err := c.flush(ctx, c.task.Deadline); err != nil {
		if ctx.Err() != nil {
			c.salvage(ctx)
			return err
		}
		return fail("flush target "+c.engine.dst.name, err)
	}
	raise(&c.meter.durable, c.track.bytes())
	if c.keeper == nil {
		return nil
	}
	err = os.Remove(c.task.Checkpoint)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fail("remove checkpoint", err)
	}
	return fail("remove checkpoint", syncDir(filepath.Dir(c.task.Checkpoint)))
}

// salvage records what the target acknowledged before the copy failed, if it still answers; else only that it has to be
// sent again. What can't be saved is copied again by the next attempt, so that is no failure of its own.
func (c *copier) salvage(ctx context.Context) {
	if c.keeper == nil {
		return
	}
	standing, _ := c.track.take()
	if err := c.lastFlush(ctx); err != nil {
		c.task.Log.Warn("the newest bytes are not known to be durable and will be copied again", "target", c.engine.dst.name, "err", err)
		sent := standing.sent
		standing = c.keeper.saved
		standing.sent = sent
	}
	if err := c.keeper.save(standing); err != nil {
		c.task.Log.Warn("last checkpoint was not written, the newest bytes will be copied again", "path", c.task.Checkpoint, "err", err)
	}
}

// lastFlush is that of a copy that failed. One after a failed flush would prove nothing.
func (c *copier) lastFlush(ctx context.Context) error {
	switch {
	case c.keeper.failed:
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

// flush is for after the lanes have ended. There is more than one connection only where a flush on one covers all.
func (c *copier) flush(ctx context.Context, patience time.Duration) error {
	return await(ctx, c.engine.dst.conns[0], &request{op: opFlush}, patience)
}
