package history

import (
	"context"
	"database/sql"
	"errors"
	"slices"

	"github.com/vmferry/vmferry/job"
)

const (
	markUpdate = "UPDATE vmferry_jobs SET writer = ?, node = ?, epoch = ?, seq = ?, watch_epoch = ?, watch_seq = ?, " +
		"state_since = ?, state_reason = ?, bytes_skipped = ? WHERE id = ?"
	markMine  = " AND (writer = '' OR writer = ?) AND (node = '' OR node = ?)"
	markOlder = " AND (epoch < ? OR (epoch = ? AND (seq < ? OR (seq = ? AND " +
		"(watch_epoch < ? OR (watch_epoch = ? AND watch_seq < ?))))))"
	markInsert = "INSERT INTO vmferry_jobs (writer, node, epoch, seq, watch_epoch, watch_seq, state_since, " +
		"state_reason, bytes_skipped, id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
	maxReason = 512 // characters of state_reason
)

// mark enters the version of an entry. fresh is false if the tables have that version or a newer one, or if the row
// belongs to another daemon or to a job of the same id at another node: the entry must not be written then.
func (t *tx) mark(ctx context.Context, e Entry) (fresh bool, err error) {
	v, id := e.version(), string(e.Report.JobID)
	row := []any{t.cfg.Writer, e.Node, v.epoch, v.seq, v.watchEpoch, v.watchSeq, nil, "", e.skipped(), id}
	if e.missed() {
		row[6], row[7] = sqlTime(e.Watch.Since), clip(e.Watch.Reason, maxReason)
	}
	mine := append(slices.Clip(row), t.cfg.Writer, e.Node)
	older := append(slices.Clip(mine), v.epoch, v.epoch, v.seq, v.seq, v.watchEpoch, v.watchEpoch, v.watchSeq)
	if n, err := t.exec(ctx, markUpdate+markMine+markOlder, older...); err != nil || n > 0 {
		return n > 0, err
	}
	if _, err = t.exec(ctx, markInsert, row...); err == nil {
		return true, nil
	}
	if !duplicate(err) {
		return false, err
	}
	return t.takeOver(ctx, e, mine)
}

// takeOver looks whose the row is that was there. A job of another node has the row's id only because tools choose ids
// as they like: it gets the row when the other job has ended.
func (t *tx) takeOver(ctx context.Context, e Entry, mine []any) (bool, error) {
	var writer, node string
	err := t.QueryRowContext(ctx, "SELECT writer, node FROM vmferry_jobs WHERE id = ?", e.Report.JobID).
		Scan(&writer, &node)
	if err != nil {
		return false, err
	}
	id := e.Report.JobID
	if writer != t.cfg.Writer {
		if t.told.first("writer " + string(id)) {
			t.log.Warn("a row of the history belongs to another daemon and is left alone", "job_id", id,
				"writer", writer, "next", "If that daemon is gone, set writer = '' in its rows of vmferry_jobs")
		}
		return false, nil
	}
	if node == e.Node {
		return false, nil // stale
	}
	ended, err := t.ended(ctx, id)
	if err != nil {
		return false, err
	}
	if !ended || e.Report.Status.Terminal() {
		if t.told.first("node " + string(id) + " " + e.Node) {
			t.log.Warn("a job is not in the history: a job of another node has its id", "job_id", id, "node", e.Node,
				"other", node, "next", "Give the jobs of each node ids of their own")
		}
		return false, nil
	}
	n, err := t.exec(ctx, markUpdate+" AND writer = ? AND node <> ?", mine...)
	return n > 0, err
}

// ended says whether the job in replication_jobs has ended.
func (t *tx) ended(ctx context.Context, id job.ID) (bool, error) {
	jobs := t.s.tables[jobsTable]
	if !jobs.has("status") || !jobs.has("id") {
		return true, nil
	}
	var status sql.NullString
	err := t.QueryRowContext(ctx, "SELECT status FROM replication_jobs WHERE "+same("id"), string(id), string(id)).
		Scan(&status)
	if errors.Is(err, sql.ErrNoRows) {
		return true, nil
	}
	return job.Status(status.String).Terminal(), err
}

func (t *tx) exec(ctx context.Context, statement string, args ...any) (int64, error) {
	r, err := t.ExecContext(ctx, statement, args...)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}
