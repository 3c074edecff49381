package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strings"

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
		//nolint:gosec // the text that is added is constant
		stmt, err := tx.PrepareContext(ctx, `INSERT INTO reports (job, epoch, seq, ended, body, seal)
			SELECT ?1, ?2, ?3, ?4, ?5, ?6 WHERE ?7 OR EXISTS (SELECT 1 FROM jobs WHERE id = ?1)`+
			reportsTable.over+` WHERE (excluded.epoch, excluded.seq) > (reports.epoch, reports.seq)`)
		if err != nil {
			return err
		}
		defer func() { _ = stmt.Close() }() // the end of the transaction closes it as well
		for _, r := range reports {
			text, err := json.Marshal(r)
			if err != nil {
				return job.Errorf(op, job.Internal, "", "encode report of job %s: %w", r.JobID, err)
			}
			row, err := reportsTable.sealed([]any{r.JobID, r.Epoch, r.Seq, r.Status.Terminal(), text})
			if err != nil {
				return err
			}
			elsewhere := r.Origin == report.External || r.Node != ""
			if _, err := stmt.ExecContext(ctx, append(row, elsewhere)...); err != nil {
				return err
			}
		}
		return nil
	})
}

// ForgetReports removes the reports of other tools' jobs, all in one transaction. An id that is not known is no error.
// The report of a job that is in the journal stays.
func (j *Journal) ForgetReports(ctx context.Context, ids []job.ID) error {
	if len(ids) == 0 {
		return nil
	}
	return j.tx(ctx, "forget reports", func(tx *sql.Tx) error {
		for _, id := range ids {
			if _, err := tx.ExecContext(ctx,
				"DELETE FROM reports WHERE job = ?1 AND NOT EXISTS (SELECT 1 FROM jobs WHERE id = ?1)",
				id); err != nil {
				return err
			}
		}
		return nil
	})
}

// Reports returns the newest saved report of each job, the oldest version first: the order in which to publish them. A
// damaged one is left out.
func (j *Journal) Reports(ctx context.Context) ([]report.Report, error) {
	const op = "list reports"
	out := []report.Report{}
	err := each(ctx, j.read, reportsTable.query+"ORDER BY epoch, seq, job", func(rows *sql.Rows) error {
		var id string
		var text []byte
		err := reportsTable.scan(rows, &id, nil, nil, nil, &text)
		if errors.Is(err, errSeal) {
			j.log.Warn("a damaged report is left out; the job will make a new one", "err", err)
			return nil
		}
		if err != nil {
			return err
		}
		out = append(out, report.Report{})
		return decode("report of job "+id, text, &out[len(out)-1])
	})
	if err != nil {
		return nil, failure(ctx, op, err)
	}
	return out, nil
}

// dropReports removes damaged reports. Each can be made again from its job.
func (j *Journal) dropReports(ctx context.Context) error {
	return j.tx(ctx, "check reports", func(tx *sql.Tx) error {
		var bad []int64
		query := strings.Replace(reportsTable.query, " FROM ", ", rowid FROM ", 1)
		err := each(ctx, tx, query, func(rows *sql.Rows) error {
			var id int64
			err := reportsTable.scanMore(rows, []any{&id})
			if !errors.Is(err, errSeal) {
				return err
			}
			j.log.Warn("a damaged report is removed; the job will make a new one", "err", err)
			bad = append(bad, id)
			return nil
		})
		for _, id := range bad {
			if err == nil {
				_, err = tx.ExecContext(ctx, "DELETE FROM reports WHERE rowid = ?", id)
			}
		}
		return err
	})
}
