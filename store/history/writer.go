package history

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
)

const (
	writeEvery = 200 * time.Millisecond // least time between the begins of two calls
	writeTime  = 5 * time.Second        // most that one call takes
	retryFirst = 250 * time.Millisecond
	retryMost  = 4 * time.Second
	writeMost  = 500 // jobs in one call
)

// Recorder is what a Writer writes to.
type Recorder interface {
	Record(ctx context.Context, entries []Entry) error
}

// Writer records in a goroutine of its own. It keeps the newest entry of each job that is not recorded yet, so its
// memory is bounded by the number of jobs. Methods may be called by many goroutines at once.
type Writer struct {
	to   Recorder
	log  *slog.Logger
	wake chan struct{}
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	pending map[string]Entry
	health  Health
}

// Health says whether the history takes entries.
type Health struct {
	Down  bool
	Since time.Time // when it went down; zero if it is not down
	Err   string    // of the last call; "" if it is not down
	Kind  job.Kind
	Next  string // what a person can do
}

// NewWriter starts a writer. Close ends it; the end of ctx does not.
func NewWriter(ctx context.Context, to Recorder, log *slog.Logger) *Writer {
	w := &Writer{
		to: to, log: log, wake: make(chan struct{}, 1), done: make(chan struct{}), pending: map[string]Entry{},
	}
	ctx, w.stop = context.WithCancel(context.WithoutCancel(ctx))
	go w.run(ctx)
	return w
}

// Offer takes an entry and returns at once. An older entry of the same job that was not recorded yet is dropped.
func (w *Writer) Offer(e Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keep(e)
	select {
	case w.wake <- struct{}{}:
	default: // it is awake
	}
}

func (w *Writer) keep(e Entry) {
	if old, ok := w.pending[e.key()]; !ok || old.version().compare(e.version()) < 0 {
		w.pending[e.key()] = e
	}
}

// Health says whether the last call succeeded.
func (w *Writer) Health() Health {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.health
}

// Close ends the writer, after one more try to record what is pending, until ctx ends.
func (w *Writer) Close(ctx context.Context) {
	w.stop()
	<-w.done
	for {
		batch := w.take()
		if len(batch) == 0 {
			return
		}
		if err := w.to.Record(ctx, batch); err != nil {
			w.log.Warn("the history did not take the last entries", "err", err)
			return
		}
	}
}

func (w *Writer) run(ctx context.Context) {
	defer close(w.done)
	failures := 0
	for {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return
		}
		pause := writeEvery
		batch := w.take()
		if err := w.record(ctx, batch); err != nil {
			failures++
			pause = min(retryMost, retryFirst<<min(failures-1, 10))
			pause = pause/2 + rand.N(pause/2+1) //nolint:gosec // spreads retries, guards nothing
		} else {
			failures = 0
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// take takes pending entries, at most as many as one call gets.
func (w *Writer) take() []Entry {
	w.mu.Lock()
	defer w.mu.Unlock()
	batch := make([]Entry, 0, min(len(w.pending), writeMost))
	for id, e := range w.pending {
		if len(batch) == writeMost {
			w.again()
			break
		}
		batch = append(batch, e)
		delete(w.pending, id)
	}
	return batch
}

func (w *Writer) again() {
	select {
	case w.wake <- struct{}{}:
	default: // it is awake
	}
}

// record makes one call. What it did not record is pending again, unless something newer is.
func (w *Writer) record(ctx context.Context, batch []Entry) error {
	if len(batch) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, writeTime)
	defer cancel()
	err := w.to.Record(ctx, batch)
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.health
	if err == nil {
		w.health = Health{}
		if was.Down {
			w.log.Info("the history takes entries again")
		}
		return nil
	}
	for _, e := range batch {
		w.keep(e)
	}
	w.again()
	w.health = Health{Down: true, Since: time.Now(), Err: fmt.Sprint(err), Kind: job.KindOf(err), Next: job.NextOf(err)}
	if was.Down {
		w.health.Since = was.Since
	}
	if !was.Down || was.Kind != w.health.Kind {
		w.log.Warn("the history does not take entries; jobs go on", "err", err, "next", w.health.Next)
	}
	return err
}
