package store

import (
	"context"
	"database/sql"
	"time"

	"github.com/vmferry/vmferry/job"
)

// keyLife is how long a repeated request finds the job that the first one made.
const keyLife = 24 * time.Hour

// Key is the Idempotency-Key of a request: Name as the client chose it, BodyHash a digest of the request's body.
type Key struct{ Name, BodyHash string }

// CreateOnce is Create for a request with an Idempotency-Key: the row and the key become durable together. If the key
// has made a job within the 24 h before st.CreatedAt, that job's id is returned, repeated is true and nothing is
// changed; that job may have been deleted since. The same key with another body fails with Invalid.
func (j *Journal) CreateOnce(ctx context.Context, st job.State, event []byte, key Key) (id job.ID, repeated bool,
	err error,
) {
	const op = "accept job"
	err = j.tx(ctx, op, func(tx *sql.Tx) error {
		id, repeated, err = lookup(ctx, tx, op, key, st.CreatedAt)
		if err != nil || repeated {
			return err
		}
		if err := create(ctx, tx, op, st, event); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "DELETE FROM request_keys WHERE at <= ? OR name = ?",
			st.CreatedAt.Add(-keyLife).UnixNano(), key.Name); err != nil {
			return err
		}
		id = st.ID
		return keysTable.insert(ctx, tx, key.Name, key.BodyHash, st.ID, st.CreatedAt.UnixNano())
	})
	if err != nil {
		return "", false, err
	}
	return id, repeated, nil
}

// Lookup finds the job that this key has made within the 24 h before now; found is false if there is none. The same key
// with another body fails with Invalid.
func (j *Journal) Lookup(ctx context.Context, key Key, now time.Time) (id job.ID, found bool, err error) {
	const op = "look up idempotency key"
	id, found, err = lookup(ctx, j.read, op, key, now)
	if err != nil {
		return "", false, failure(ctx, op, err)
	}
	return id, found, nil
}

type rowQuerier interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func lookup(ctx context.Context, q rowQuerier, op string, key Key, now time.Time) (id job.ID, found bool, err error) {
	var hash string
	found, err = keysTable.get(ctx, q, "WHERE name = ? AND at > ?", []any{key.Name, now.Add(-keyLife).UnixNano()}, nil,
		&hash, &id)
	if err != nil || !found {
		return "", false, err
	}
	if hash != key.BodyHash {
		return "", false, job.Errorf(op, job.Invalid, "Use a new Idempotency-Key for a new request",
			"the idempotency key was used for another request, which made job %s", id)
	}
	return id, true, nil
}
