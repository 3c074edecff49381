package nbd

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// checkpointer decides when the target is flushed, and records what that made durable: in a file if there is a path,
// and for falling back to in any case. All methods but save are called by the first thread only, which goes on copying
// meanwhile: a flush covers what was acknowledged before it began.
type checkpointer struct {
	path  string
	head  checkpoint // with no progressSnapshot yet
	track *tracker
	meter *Meter
	log   *slog.Logger
	bytes int64
	every time.Duration

	must      bool // nothing goes on for long that can't be recorded
	trouble   trouble
	backlog   backlog
	wake      func()       // wakes the threads: something has become durable
	last      time.Time    // of the last beginning
	cost      atomic.Int64 // nanoseconds of the last flush and its record
	lastBytes int64
	saved     progressSnapshot  // what is durable and, with a path, recorded; guarded by busy, and free after saving
	flushing  *progressSnapshot // what the flush under way will have made durable; nil if there is none
	idle      bool              // nothing needs to be flushed on the way
	failed    bool              // a flush failed: what it should have covered may be lost, and no later one can tell
	saving    sync.WaitGroup
	busy      chan struct{} // holds one token while a file is written
}

// trouble is since when records can't be written, and why. It is safe for several goroutines.
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

// err is not nil if it has lasted for that long.
func (t *trouble) err(now time.Time, patience time.Duration) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil || now.Sub(t.since) < patience {
		return nil
	}
	return t.last
}

// stuck is the error with which a copy ends that must not go on unrecorded.
func (c *checkpointer) stuck(now time.Time, patience time.Duration) error {
	if !c.must {
		return nil
	}
	if err := c.trouble.err(now, patience); err != nil {
		return fail("record what is durable", err)
	}
	return nil
}

// backlog is what was asked for and is not known to be durable: what a kill costs. It is safe for several threads.
type backlog struct {
	most    int64        // bytes; 0 for no end
	begun   atomic.Int64 // bytes of data that were ever asked for, those that are tried again counted once
	durable atomic.Int64 // of them
}

// full says whether n bytes more have to wait for a flush. One request always is in order.
func (b *backlog) full(n int64) bool {
	waiting := b.begun.Load() - b.durable.Load()
	return b.most > 0 && waiting > 0 && waiting+n > b.most
}

// halfFull says whether it is so full that flushing must not wait.
func (b *backlog) halfFull() bool { return b.most > 0 && 2*(b.begun.Load()-b.durable.Load()) >= b.most }

func newCheckpointer(t Task, head checkpoint, track *tracker, meter *Meter, now time.Time) *checkpointer {
	return &checkpointer{
		path: t.Checkpoint, head: head, track: track, meter: meter, log: t.Log, bytes: t.CheckpointBytes,
		every: t.CheckpointEvery,
		must:  t.MustRecord, saved: track.clone(), last: now, lastBytes: track.bytes(), busy: make(chan struct{}, 1),
	}
}

// restart is for a new pass, over new connections: what happened to flushes of the old ones is dealt with.
func (c *checkpointer) restart(now time.Time) {
	c.failed, c.flushing, c.last, c.lastBytes = false, nil, now, c.track.bytes()
	c.backlog.begun.Store(c.track.dataRead())
	c.backlog.durable.Store(c.saved.read)
	select {
	case <-c.busy: // of a flush that was never answered
	default:
	}
}

// due says whether to flush now; the caller must then do so and tell flushed.
func (c *checkpointer) due(now time.Time) bool {
	if c.idle || c.failed || c.flushing != nil || now.Before(c.next()) && !c.dueEarly(now) {
		return false
	}
	select {
	case c.busy <- struct{}{}:
	default:
		c.last = now // the file system is slow: later
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

// dueEarly says whether so much is done that it is time before its time.
func (c *checkpointer) dueEarly(now time.Time) bool {
	return c.track.bytes()-c.lastBytes >= c.bytes &&
		(c.backlog.halfFull() || int64(now.Sub(c.last)) >= flushShare*c.cost.Load())
}

// flushMoreOften is for when connections were lost before anything became durable, so that each pass began where the last did.
func (c *checkpointer) flushMoreOften() {
	c.every = max(min(c.every, leastCheckpointEvery), c.every/4)
	c.bytes = max(min(c.bytes, leastUnflushed), c.bytes/4)
}

// next is the latest time to ask again whether it is due.
func (c *checkpointer) next() time.Time { return c.last.Add(c.every) }

// flushed takes the outcome of the flush.
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

// save records a progressSnapshot that is durable.
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
