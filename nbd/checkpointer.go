package nbd

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// checkpointer decides when to flush the target, and records what each flush made durable: in a file if there is a
// path, and in memory in any case, to fall back to. While threads run, only the first one calls its methods; save runs
// in a goroutine of its own. The thread goes on copying during a flush: a flush covers what was acknowledged before it
// began.
type checkpointer struct {
	path  string
	head  checkpoint // with no progress snapshot yet
	track *tracker
	meter *Meter
	log   *slog.Logger
	bytes int64         // flush after so many bytes,
	every time.Duration // or after this time

	must      bool // the copy fails if it can't record progress for longer than the deadline
	trouble   trouble
	backlog   backlog
	wake      func()            // wakes the threads when data has become durable
	last      time.Time         // start of the last flush
	cost      atomic.Int64      // nanoseconds of the last flush and its record
	lastBytes int64             // done at the start of the last flush
	saved     progressSnapshot  // durable and, with a path, recorded; guarded by busy, free once saving is done
	flushing  *progressSnapshot // what the flush in flight will make durable; nil if there is none
	idle      bool              // no flush is needed before the last one
	failed    bool              // a flush failed: what it covers may be lost, and no later flush can tell
	saving    sync.WaitGroup
	busy      chan struct{} // holds one token from the start of a flush until its record is written
}

// trouble is the last error of writing records, and since when they fail. It is safe for several goroutines.
type trouble struct {
	mu    sync.Mutex
	since time.Time
	last  error
}

func (t *trouble) note(err error, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil || t.last == nil {
		t.since = now
	}
	t.last = err
}

// err returns the last error if records have failed for at least patience, else nil.
func (t *trouble) err(now time.Time, patience time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil || now.Sub(t.since) < patience {
		return nil
	}
	return t.last
}

// stuck is the error that ends a copy which must not go on unrecorded; nil if it may go on.
func (c *checkpointer) stuck(now time.Time, patience time.Duration) error {
	if !c.must {
		return nil
	}
	if err := c.trouble.err(now, patience); err != nil {
		return fail("record what is durable", err)
	}
	return nil
}

// backlog is the data that was requested and is not known to be durable: what a kill costs. It is safe for several
// threads.
type backlog struct {
	most    int64        // bytes; 0 for no limit
	begun   atomic.Int64 // bytes of data requested so far; a retry does not count again
	durable atomic.Int64 // bytes of them that are durable
}

// full says whether n more bytes must wait for a flush. One request is always allowed.
func (b *backlog) full(n int64) bool {
	waiting := b.begun.Load() - b.durable.Load()
	return b.most > 0 && waiting > 0 && waiting+n > b.most
}

// halfFull says whether the backlog is so full that a flush must not wait.
func (b *backlog) halfFull() bool { return b.most > 0 && 2*(b.begun.Load()-b.durable.Load()) >= b.most }

func newCheckpointer(t Task, head checkpoint, track *tracker, meter *Meter, now time.Time) *checkpointer {
	return &checkpointer{
		path: t.Checkpoint, head: head, track: track, meter: meter, log: t.Log,
		bytes: t.CheckpointBytes, every: t.CheckpointEvery, must: t.MustRecord,
		saved: track.clone(), last: now, lastBytes: track.bytes(), busy: make(chan struct{}, 1),
	}
}

// restart begins a new pass over new connections, and forgets a flush that the old ones never answered.
func (c *checkpointer) restart(now time.Time) {
	c.failed, c.flushing, c.last, c.lastBytes = false, nil, now, c.track.bytes()
	c.backlog.begun.Store(c.track.dataRead())
	c.backlog.durable.Store(c.saved.read)
	select {
	case <-c.busy: // the token of that flush
	default:
	}
}

// due says whether to flush now. If so, the caller must flush and then call flushed.
func (c *checkpointer) due(now time.Time) bool {
	if c.idle || c.failed || c.flushing != nil || now.Before(c.next()) && !c.dueEarly(now) {
		return false
	}
	select {
	case c.busy <- struct{}{}:
	default:
		c.last = now // the last record is still being written: try again later
		return false
	}
	s, changed := c.track.take()
	c.last, c.lastBytes = now, s.bytes()
	if !changed && c.trouble.err(now, 0) == nil {
		<-c.busy
		return false
	}
	c.flushing = &s
	return true
}

// dueEarly says whether so many bytes are done that a flush comes before its time.
func (c *checkpointer) dueEarly(now time.Time) bool {
	return c.track.bytes()-c.lastBytes >= c.bytes &&
		(c.backlog.halfFull() || int64(now.Sub(c.last)) >= flushShare*c.cost.Load())
}

// flushMoreOften shortens the checkpoint interval. It is called after a loss without durable progress: else each pass
// could begin where the last one did.
func (c *checkpointer) flushMoreOften() {
	c.every = max(min(c.every, leastCheckpointEvery), c.every/4)
	c.bytes = max(min(c.bytes, leastUnflushed), c.bytes/4)
}

// next is the time when due must be asked again at the latest.
func (c *checkpointer) next() time.Time { return c.last.Add(c.every) }

// flushed takes the target's answer to a flush. The record is written in another goroutine.
func (c *checkpointer) flushed(err error) {
	s, began := *c.flushing, c.last
	c.flushing = nil
	if err != nil {
		c.failed = true
		<-c.busy
		return
	}
	c.saving.Go(func() {
		err := c.save(s)
		if err != nil {
			c.log.Warn("checkpoint was not written, the copy goes on", "path", c.path, "err", err)
		}
		c.trouble.note(err, time.Now())
		if err == nil || !c.must {
			c.backlog.durable.Store(s.read)
		}
		c.cost.Store(int64(time.Since(began)))
		<-c.busy
		c.wake()
	})
}

// save records a progress snapshot that is durable. Only one call may run at a time.
func (c *checkpointer) save(s progressSnapshot) error {
	if c.path != "" {
		record := c.head
		record.progressSnapshot = s
		if err := record.save(c.path); err != nil {
			return err
		}
	}
	c.saved = s
	raise(&c.meter.durable, s.bytes())
	return nil
}
