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
func (k *checkpointer) stuck(now time.Time, patience time.Duration) error {
	if !k.must {
		return nil
	}
	if err := k.trouble.err(now, patience); err != nil {
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

// half says whether it is so full that flushing must not wait.
func (b *backlog) half() bool { return b.most > 0 && 2*(b.begun.Load()-b.durable.Load()) >= b.most }

func newCheckpointer(t Task, head checkpoint, track *tracker, meter *Meter, now time.Time) *checkpointer {
	return &checkpointer{
		path: t.Checkpoint, head: head, track: track, meter: meter, log: t.Log, bytes: t.CheckpointBytes,
		every: t.CheckpointEvery,
		must:  t.MustRecord, saved: track.clone(), last: now, lastBytes: track.bytes(), busy: make(chan struct{}, 1),
	}
}

// restart is for a new pass, over new connections: what happened to flushes of the old ones is dealt with.
func (k *checkpointer) restart(now time.Time) {
	k.failed, k.flushing, k.last, k.lastBytes = false, nil, now, k.track.bytes()
	k.backlog.begun.Store(k.track.dataRead())
	k.backlog.durable.Store(k.saved.read)
	select {
	case <-k.busy: // of a flush that was never answered
	default:
	}
}

// due says whether to flush now; the caller must then do so and tell flushed.
func (k *checkpointer) due(now time.Time) bool {
	if k.idle || k.failed || k.flushing != nil || now.Before(k.next()) && !k.enough(now) {
		return false
	}
	select {
	case k.busy <- struct{}{}:
	default:
		k.last = now // the file system is slow: later
		return false
	}
	s, changed := k.track.take()
	k.last, k.lastBytes = now, s.bytes()
	if !changed && k.trouble.err(now, 0) == nil {
		<-k.busy
		return false
	}
	k.flushing = &s
	return true
}

// enough says whether so much is done that it is time before its time.
func (k *checkpointer) enough(now time.Time) bool {
	return k.track.bytes()-k.lastBytes >= k.bytes &&
		(k.backlog.half() || int64(now.Sub(k.last)) >= flushShare*k.cost.Load())
}

// oftener is for when connections were lost before anything became durable, so that each pass began where the last did.
func (k *checkpointer) oftener() {
	k.every = max(min(k.every, leastCheckpointEvery), k.every/4)
	k.bytes = max(min(k.bytes, leastUnflushed), k.bytes/4)
}

// next is the latest time to ask again whether it is due.
func (k *checkpointer) next() time.Time { return k.last.Add(k.every) }

// flushed takes the outcome of the flush.
func (k *checkpointer) flushed(err error) {
	s, began := *k.flushing, k.last
	k.flushing = nil
	if err != nil {
		k.failed = true
		<-k.busy
		return
	}
	k.saving.Go(func() {
		err := k.save(s)
		if err != nil {
			k.log.Warn("checkpoint was not written, the copy goes on", "path", k.path, "err", err)
		}
		k.trouble.note(err, time.Now())
		if err == nil || !k.must {
			k.backlog.durable.Store(s.read)
		}
		k.cost.Store(int64(time.Since(began)))
		<-k.busy
		k.wake()
	})
}

// save records a progressSnapshot that is durable.
func (k *checkpointer) save(s progressSnapshot) error {
	if k.path != "" {
		c := k.head
		c.progressSnapshot = s
		if err := c.save(k.path); err != nil {
			return err
		}
	}
	k.saved = s
	raise(&k.meter.durable, s.bytes())
	return nil
}
