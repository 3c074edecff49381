package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

const whereID = "WHERE id = ?"

// Event is one event of a job, as it was saved.
type Event struct {
	Seq  int64     // goes up by one from each event of a job to the next
	At   time.Time // when it was saved, UTC
	JSON []byte
}

// Create accepts a job: its row and its first event (JSON, under st.Seq; nil for none) are durable when Create returns.
// It fails with Conflict if the id exists already, or if an unfinished job moves the same VM (the same Spec.VM, or the
// same VM.UUID where both are known); the error then names that job.
func (j *Journal) Create(ctx context.Context, st job.State, event []byte) error {
	const op = "accept job"
	return j.tx(ctx, op, func(tx *sql.Tx) error { return create(ctx, tx, op, st, event) })
}

func create(ctx context.Context, tx *sql.Tx, op string, st job.State, event []byte) error {
	exists, err := jobsTable.get(ctx, tx, whereID, []any{st.ID})
	if err != nil {
		return err
	}
	if exists {
		return job.Errorf(op, job.Conflict, "Leave the id out to get a new one", "job %s exists already", st.ID)
	}
	if err := alone(ctx, tx, op, st); err != nil {
		return err
	}
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	err = jobsTable.insert(ctx, tx, st.ID, st.Spec.VM, fold(st.VM.UUID), !st.Phase.Terminal(), st.Seq,
		st.CreatedAt.UnixNano(), string(text))
	if err != nil || event == nil {
		return err
	}
	return appendEvent(ctx, tx, st, event)
}

func appendEvent(ctx context.Context, tx *sql.Tx, st job.State, event []byte) error {
	return eventsTable.insert(ctx, tx, st.ID, st.Seq, time.Now().UnixNano(), event)
}

// alone checks that no other unfinished job moves the VM of st. A request may name a VM by its UUID, so names are
// compared with UUIDs too. It may also name a VM by path, reference or name; the other job's state holds these once
// that job has inspected its VM.
func alone(ctx context.Context, tx *sql.Tx, op string, st job.State) error {
	if st.Phase.Terminal() {
		return nil
	}
	uuid := fold(st.VM.UUID)
	var other job.ID
	found, err := jobsTable.get(ctx, tx, `WHERE active = 1 AND id <> ?1
		AND (vm = ?2 OR vm_uuid <> '' AND (vm_uuid = ?3 OR vm_uuid = lower(?2)) OR ?3 <> '' AND lower(vm) = ?3
			OR ?2 IN (json_extract(state, '$.vm.path'), json_extract(state, '$.vm.ref'),
				json_extract(state, '$.vm.name')))
		ORDER BY created_at LIMIT 1`, []any{st.ID, st.Spec.VM, uuid}, &other)
	if err != nil || !found {
		return err
	}
	return job.Errorf(op, job.Conflict, fmt.Sprintf("Wait for job %s to end, or cancel it", other),
		"job %s already moves VM %s", other, st.Spec.VM)
}

// Save appends the event (JSON) under st.Seq and keeps st as the job's state, both or neither. st.Seq must be the
// stored one plus one, else Save fails with Conflict: another writer was first, or the caller is an old writer. The
// same seq with the same event once more is no error and changes nothing. Save also fails with Conflict, and changes
// nothing, when st has a VM.UUID that another unfinished job has, or when st continues an ended job whose VM another
// job now moves.
func (j *Journal) Save(ctx context.Context, st job.State, event []byte) error {
	const op = "save job"
	if !json.Valid(event) {
		return job.Errorf(op, job.Invalid, "", "the event of job %s with seq %d is not JSON", st.ID, st.Seq)
	}
	text, err := json.Marshal(st)
	if err != nil {
		return job.Errorf(op, job.Internal, "", "encode job %s: %w", st.ID, err)
	}
	return j.tx(ctx, op, func(tx *sql.Tx) error {
		created, repeated, err := next(ctx, tx, op, st, event)
		if err != nil || repeated {
			return err
		}
		if err := alone(ctx, tx, op, st); err != nil {
			return err
		}
		if err := appendEvent(ctx, tx, st, event); err != nil {
			return err
		}
		return jobsTable.put(ctx, tx, st.ID, st.Spec.VM, fold(st.VM.UUID), !st.Phase.Terminal(), st.Seq, created,
			string(text))
	})
}

// next checks that st follows the stored state, and returns when the job was created. If st is the stored state with
// the same event, repeated is true.
func next(ctx context.Context, tx *sql.Tx, op string, st job.State, event []byte) (created int64, repeated bool,
	err error,
) {
	var stored int64
	found, err := jobsTable.get(ctx, tx, whereID, []any{st.ID}, nil, nil, nil, nil, &stored, &created)
	if err != nil {
		return 0, false, err
	}
	if !found {
		return 0, false, unknown(op, st.ID)
	}
	if st.Seq == stored+1 {
		return created, false, nil
	}
	if st.Seq == stored {
		var old []byte
		found, err := eventsTable.get(ctx, tx, "WHERE job = ? AND seq = ?", []any{st.ID, st.Seq}, nil, nil, nil, &old)
		if err != nil {
			return 0, false, err
		}
		if found && bytes.Equal(old, event) {
			return created, true, nil
		}
	}
	return 0, false, job.Errorf(op, job.Conflict, "", "job %s is at seq %d; seq %d does not follow", st.ID, stored,
		st.Seq)
}

// Jobs returns the states of all jobs, the oldest first.
func (j *Journal) Jobs(ctx context.Context) ([]job.State, error) { return j.states(ctx, "") }

// Unreported returns the states of the jobs that have no saved report, the oldest first.
func (j *Journal) Unreported(ctx context.Context) ([]job.State, error) {
	return j.states(ctx, "WHERE NOT EXISTS (SELECT 1 FROM reports WHERE reports.job = jobs.id) ")
}

// states returns the states of the jobs that a condition chooses, the oldest first.
func (j *Journal) states(ctx context.Context, where string) ([]job.State, error) {
	return list(ctx, j.read, "list jobs", func(rows *sql.Rows) (st job.State, err error) {
		var id string
		var text []byte
		if err := jobsTable.scan(rows, &id, nil, nil, nil, nil, nil, &text); err != nil {
			return st, err
		}
		return st, decode("job "+id, text, &st)
	}, jobsTable.query+where+"ORDER BY created_at, id")
}

// Job returns the state of a job; NotFound if there is no such job.
func (j *Journal) Job(ctx context.Context, id job.ID) (st job.State, err error) {
	const op = "read job"
	var text []byte
	found, err := jobsTable.get(ctx, j.read, whereID, []any{id}, nil, nil, nil, nil, nil, nil, &text)
	switch {
	case err != nil:
		return st, failure(ctx, op, err)
	case !found:
		return st, unknown(op, id)
	}
	return st, decode("job "+string(id), text, &st)
}

// Events returns all events of a job, the oldest first. It fails with NotFound if there is no such job.
func (j *Journal) Events(ctx context.Context, id job.ID) ([]Event, error) {
	const op = "list events"
	exists, err := jobsTable.get(ctx, j.read, whereID, []any{id})
	if err != nil {
		return nil, failure(ctx, op, err)
	}
	if !exists {
		return nil, unknown(op, id)
	}
	return list(ctx, j.read, op, func(rows *sql.Rows) (e Event, err error) {
		var at int64
		err = eventsTable.scan(rows, nil, &e.Seq, &at, &e.JSON)
		e.At = time.Unix(0, at).UTC()
		return e, err
	}, eventsTable.query+"WHERE job = ? ORDER BY seq", id)
}

// Delete removes an ended job, its events and its report; for a job of another tool, its report. It fails with Conflict
// if the job has not ended, with NotFound if there is none. The job's idempotency key stays for 24 h: a late repeat of
// the request must not start the job again. Checkpoint sets and volumes belong to the VM and stay as well; the rows of
// the ledger name the job no longer, as another job may get its id.
func (j *Journal) Delete(ctx context.Context, id job.ID) error {
	const op = "delete job"
	return j.tx(ctx, op, func(tx *sql.Tx) error {
		found, active, err := unfinished(ctx, tx, id)
		if err != nil {
			return err
		}
		if !found {
			return unknown(op, id)
		}
		if active {
			return job.Errorf(op, job.Conflict, "Cancel the job first, or wait for its end", "job %s has not ended",
				id)
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM jobs WHERE id = ?", id); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM reports WHERE job = ?", id); err != nil {
			return err
		}
		return forgetJob(ctx, tx, id)
	})
}

// unfinished looks for a job, or for the report of another tool's job, and says whether it has not ended.
func unfinished(ctx context.Context, tx *sql.Tx, id job.ID) (found, active bool, err error) {
	found, err = jobsTable.get(ctx, tx, whereID, []any{id}, nil, nil, nil, &active)
	if err != nil || found {
		return found, active, err
	}
	var ended bool
	found, err = reportsTable.get(ctx, tx, "WHERE job = ?", []any{id}, nil, nil, nil, &ended)
	if errors.Is(err, errSeal) { // a report that is not believed anyway, so it may go
		return true, false, nil
	}
	return found, !ended, err
}

func unknown(op string, id job.ID) error {
	return job.Errorf(op, job.NotFound, "", "there is no job %s", id)
}

// fold writes a UUID in lower case, so that UUIDs can be compared.
func fold(uuid string) string { return strings.ToLower(uuid) }

// decode reads a stored JSON text.
func decode(what string, text []byte, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return damaged(fmt.Errorf("%s: %w", what, err))
	}
	return nil
}

// list runs a query and scans each row. Its result is never nil.
func list[T any](ctx context.Context, db *sql.DB, op string, scan func(*sql.Rows) (T, error), query string,
	args ...any,
) (out []T, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, failure(ctx, op, err)
	}
	defer func() {
		if bad := rows.Close(); bad != nil && err == nil {
			out, err = nil, failure(ctx, op, bad)
		}
	}()
	out = []T{}
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, failure(ctx, op, err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, failure(ctx, op, err)
	}
	return out, nil
}
