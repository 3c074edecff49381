package store

import (
	"context"
	"database/sql"
	"encoding/json"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// SaveReports keeps the newest report of each job, all in one transaction. A report that is not newer than the stored
// one is left out without an error. So is a report of vmferry's own job that is not in the journal: the job was deleted
// while its last report was on the way.
func (j *Journal) SaveReports(ctx context.Context, reports []report.Report) error {
	const op = "save reports"
	if len(reports) == 0 {
		return nil
	}
	return j.tx(ctx, op, func(tx *sql.Tx) error {
		stmt, err := tx.PrepareContext(ctx, `INSERT INTO reports (job, epoch, seq, ended, body)
			SELECT ?1, ?2, ?3, ?4, ?5 WHERE ?6 OR EXISTS (SELECT 1 FROM jobs WHERE id = ?1)
			ON CONFLICT (job) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, ended = excluded.ended,
				body = excluded.body
			WHERE (excluded.epoch, excluded.seq) > (reports.epoch, reports.seq)`)
		if err != nil {
			return err
		}
		defer func() { _ = stmt.Close() }() // the end of the transaction closes it as well
		for _, r := range reports {
			text, err := json.Marshal(r)
			if err != nil {
				return job.Errorf(op, job.Internal, "", "encode report of job %s: %w", r.JobID, err)
			}
			if _, err := stmt.ExecContext(ctx, r.JobID, r.Epoch, r.Seq, r.Status.Terminal(), text,
				r.Origin == report.External); err != nil {
				return err
			}
		}
		return nil
	})
}

// Reports returns the newest saved report of each job, the oldest version first: the order in which to publish them.
func (j *Journal) Reports(ctx context.Context) ([]report.Report, error) {
	return list(ctx, j.read, "list reports", func(rows *sql.Rows) (r report.Report, err error) {
		var id string
		var text []byte
		if err := rows.Scan(&id, &text); err != nil {
			return r, err
		}
		return r, decode("report of job "+id, text, &r)
	}, "SELECT job, body FROM reports ORDER BY epoch, seq, job")
}
