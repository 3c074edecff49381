package history

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	maxNode  = 64  // characters of the name of a node or writer
	maxBatch = 200 // jobs in one transaction
	retries  = 3   // of a transaction that another one has cut off
)

// Entry is what is known of one job.
type Entry struct {
	Node   string        // that runs the job, 1 to 64 characters
	Report report.Report // Epoch and Seq are its version
	Watch  *Watch        // nil if the node itself writes
}

// Watch is what a watcher says of a job beside its last report. Of two entries with the same report the one with the
// higher Epoch, then the higher Seq, is newer.
type Watch struct {
	Epoch    int64 // of the watcher's daemon, grows with each start
	Seq      int64 // grows with everything that the watcher says
	State    job.Status
	Since    time.Time // since when it is Unreachable or Lost
	Reason   string    // for people
	Kind     job.Kind  // of the reason
	PolledAt time.Time // when the node last said something of the job
}

// version orders the entries of a job.
type version struct{ epoch, seq, watchEpoch, watchSeq int64 }

func (e Entry) version() version {
	v := version{epoch: e.Report.Epoch, seq: e.Report.Seq}
	if e.Watch != nil {
		v.watchEpoch, v.watchSeq = e.Watch.Epoch, e.Watch.Seq
	}
	return v
}

// key names a job. Tools choose ids as they like, so two nodes may have a job of the same id.
func (e Entry) key() string { return string(e.Report.JobID) + " " + e.Node }

func (v version) compare(w version) int {
	return cmp.Or(cmp.Compare(v.epoch, w.epoch), cmp.Compare(v.seq, w.seq),
		cmp.Compare(v.watchEpoch, w.watchEpoch), cmp.Compare(v.watchSeq, w.watchSeq))
}

// missed says that the row shows the job as unreachable or lost. A job that has ended is neither.
func (e Entry) missed() bool {
	return e.Watch != nil && (e.Watch.State == job.Unreachable || e.Watch.State == job.Lost) &&
		!e.Report.Status.Terminal()
}

func (e Entry) check() error {
	if n := len(e.Node); n < 1 || n > maxNode {
		return job.Errorf("record history", job.Invalid, "", "the node of job %s has a name of %d characters",
			e.Report.JobID, n)
	}
	if e.Report.JobID == "" || e.Report.Epoch <= 0 {
		return job.Errorf("record history", job.Invalid, "", "the report of job %q has no version", e.Report.JobID)
	}
	return nil
}

// told remembers what was logged, so that it is logged once.
type told struct {
	mu   sync.Mutex
	seen map[string]bool
}

const maxTold = 10_000 // what is remembered; then all may be logged once more

func (t *told) first(what string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen[what] {
		return false
	}
	if t.seen == nil || len(t.seen) >= maxTold {
		t.seen = map[string]bool{}
	}
	t.seen[what] = true
	return true
}

// Record writes what is newer than what the tables have, up to 200 jobs in one transaction. What is older or there
// already changes nothing and is no error. Of a database that does not answer it returns within some seconds, and never
// later than the end of ctx. After an error any of the entries may be stored or not; to record the newest ones again is
// right. Rows that the tables refuse are left out, and the error is Conflict: all others are written then. It fails
// with Invalid if an entry has no node, id or version.
func (h *DB) Record(ctx context.Context, entries []Entry) error {
	const op = "record history"
	newest := map[string]Entry{}
	for _, e := range entries {
		if err := e.check(); err != nil {
			return err
		}
		if old, ok := newest[e.key()]; !ok || old.version().compare(e.version()) < 0 {
			newest[e.key()] = e
		}
	}
	select {
	case h.writing <- struct{}{}:
		defer func() { <-h.writing }()
	case <-ctx.Done():
		return h.wrap(ctx, op, ctx.Err())
	}
	s, err := h.session.get(ctx)
	if err != nil {
		return h.wrap(ctx, op, err)
	}
	w := writer{h, s, time.Now()}
	if err := w.all(ctx, newest); err != nil {
		if job.KindOf(err) != job.Conflict {
			h.session.drop(s)
		}
		return h.wrap(ctx, op, err)
	}
	return nil
}

// writer writes entries in a session.
type writer struct {
	*DB
	s   *session
	now time.Time
}

// all writes in parts. The order of the ids is the same in all daemons, so that two of them seldom wait in a circle.
func (w writer) all(ctx context.Context, entries map[string]Entry) error {
	var due []Entry
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		e := entries[key]
		if done, ok := w.s.done[e.key()]; !ok || done.compare(e.version()) < 0 {
			due = append(due, e)
		}
	}
	var first error
	for part := range slices.Chunk(due, maxBatch) {
		err := w.part(ctx, part)
		if refused(err) {
			err = w.each(ctx, part)
		}
		if err != nil && job.KindOf(err) != job.Conflict {
			return err
		}
		first = cmp.Or(first, err)
	}
	return first
}

// each writes each entry in a transaction of its own, because one of them was refused. The columns may have changed, so
// they are looked at again.
func (w writer) each(ctx context.Context, part []Entry) (first error) {
	tables, err := w.inspect(ctx, w.s.write)
	if err != nil {
		return err
	}
	w.s.tables = tables
	for _, e := range part {
		err := w.part(ctx, []Entry{e})
		if err != nil && !refused(err) {
			return err
		}
		if err != nil && first == nil {
			first = job.Errorf("record history", job.Conflict, "Look which rule of the table refuses the row; all "+
				"other rows are written", "job %s: %w", e.Report.JobID, err)
		}
	}
	return first
}

// part writes entries in one transaction. What the session remembers is true only after the commit.
func (w writer) part(ctx context.Context, part []Entry) (err error) {
	for range retries {
		t := &tx{writer: w, rows: map[string]string{}, holder: map[string]holder{}}
		if err = t.run(ctx, part); err == nil {
			for _, e := range part {
				keep(w.s.done, e.key(), e.version())
			}
			for k, v := range t.rows {
				keep(w.s.rows, k, v)
			}
			for k, v := range t.holder {
				keep(w.s.holder, k, v)
			}
			return nil
		}
		if !again(err) {
			return err
		}
	}
	return err
}

func keep[K comparable, V any](m map[K]V, k K, v V) {
	if len(m) >= maxKept {
		clear(m)
	}
	m[k] = v
}

// tx is a transaction, and what the session will remember when it is committed.
type tx struct {
	writer
	*sql.Tx
	rows   map[string]string
	holder map[string]holder
}

func (t *tx) run(ctx context.Context, part []Entry) (err error) {
	if t.Tx, err = t.s.write.BeginTx(ctx, nil); err != nil {
		return err
	}
	for _, e := range part {
		if err := t.entry(ctx, e); err != nil {
			return errors.Join(err, ignoreDone(t.Rollback()))
		}
	}
	return t.Commit()
}

// ignoreDone drops the error of a rollback: the connection is closed then, and the database rolls back by itself.
func ignoreDone(error) error { return nil }

func (t *tx) entry(ctx context.Context, e Entry) error {
	fresh, err := t.mark(ctx, e)
	if err != nil || !fresh {
		return err
	}
	if err := t.put(ctx, jobsTable, []value{{"id", string(e.Report.JobID)}}, t.jobValues(e)); err != nil {
		return err
	}
	if err := t.disks(ctx, e); err != nil {
		return err
	}
	if err := t.mappings(ctx, e); err != nil {
		return err
	}
	return t.changeIDs(ctx, e)
}
