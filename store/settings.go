package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"

	"github.com/vmferry/vmferry/job"
)

// Names of settings, as stored.
const (
	settingNode   = "node"
	settingLimits = "limits"
)

// NodeID names this state directory. The first call makes a random id; all later calls return the same one.
func (j *Journal) NodeID(ctx context.Context) (id string, err error) {
	err = j.tx(ctx, "read node id", func(tx *sql.Tx) error {
		fresh, err := json.Marshal(rand.Text()[:12])
		if err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx,
			"INSERT INTO settings (name, body) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", settingNode,
			string(fresh)); err != nil {
			return err
		}
		_, err = setting(ctx, tx, settingNode, &id)
		return err
	})
	return id, err
}

// Limits returns the limits that were set while a daemon ran; nil if none were.
func (j *Journal) Limits(ctx context.Context) (*job.Limits, error) {
	var l job.Limits
	found, err := setting(ctx, j.read, settingLimits, &l)
	if err != nil {
		return nil, failure(ctx, "read limits", err)
	}
	if !found {
		return nil, nil
	}
	return &l, nil
}

// SetLimits stores limits for the time after a restart; nil removes them.
func (j *Journal) SetLimits(ctx context.Context, l *job.Limits) error {
	return j.tx(ctx, "store limits", func(tx *sql.Tx) error {
		if l == nil {
			_, err := tx.ExecContext(ctx, "DELETE FROM settings WHERE name = ?", settingLimits)
			return err
		}
		text, err := json.Marshal(l)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx,
			"INSERT INTO settings (name, body) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET body = excluded.body",
			settingLimits, string(text))
		return err
	})
}

func setting(ctx context.Context, q rowQuerier, name string, into any) (found bool, err error) {
	var text []byte
	err = q.QueryRowContext(ctx, "SELECT body FROM settings WHERE name = ?", name).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, decode("setting "+name, text, into)
}
