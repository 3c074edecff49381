package store

import (
	"context"
	"database/sql"
	"encoding/json"

	"github.com/vmferry/vmferry/job"
)

// Tokens returns all tokens and sessions, in no order.
func (j *Journal) Tokens(ctx context.Context) ([]job.Token, error) {
	return list(ctx, j.read, "list tokens", func(rows *sql.Rows) (t job.Token, err error) {
		var id string
		var text []byte
		if err := tokensTable.scan(rows, &id, &text); err != nil {
			return t, err
		}
		return t, decode("token "+id, text, &t)
	}, tokensTable.query)
}

// ChangeTokens adds tokens or replaces those of the same ID, and removes those with the IDs in drop, all in one durable
// transaction. It is no error if a token to remove is not there. A token without an ID or a hash fails with Internal
// and changes nothing.
func (j *Journal) ChangeTokens(ctx context.Context, save []job.Token, drop []string) error {
	const op = "change tokens"
	for _, t := range save {
		if t.ID == "" || t.Hash == "" {
			return job.Errorf(op, job.Internal, "", "a token has no id or no hash")
		}
	}
	return j.tx(ctx, op, func(tx *sql.Tx) error {
		for _, id := range drop {
			if _, err := tx.ExecContext(ctx, "DELETE FROM tokens WHERE id = ?", id); err != nil {
				return err
			}
		}
		for _, t := range save {
			text, err := json.Marshal(t)
			if err != nil {
				return err
			}
			if err := tokensTable.put(ctx, tx, t.ID, string(text)); err != nil {
				return err
			}
		}
		return nil
	})
}
