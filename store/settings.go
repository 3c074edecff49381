package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"

	"github.com/vmferry/vmferry/job"
)

// Names of settings, as stored.
const (
	settingNode    = "node"
	settingLimits  = "limits"
	settingJournal = "journal" // which one it is, and its newest write: see mark
	settingSchema  = "schema"  // digest of the tables' definitions
)

// NodeID names this state directory. The first call makes a random id; all later calls return the same one.
func (j *Journal) NodeID(ctx context.Context) (id string, err error) {
	err = j.tx(ctx, "read node id", func(tx *sql.Tx) error {
		found, err := setting(ctx, tx, settingNode, &id)
		if err != nil || found {
			return err
		}
		id = rand.Text()[:12]
		return setSetting(ctx, tx, settingNode, id)
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
		return setSetting(ctx, tx, settingLimits, l)
	})
}

func setting(ctx context.Context, q rowQuerier, name string, into any) (found bool, err error) {
	var text []byte
	found, err = settingsTable.get(ctx, q, "WHERE name = ?", []any{name}, nil, &text)
	if err != nil || !found {
		return false, err
	}
	return true, decode("setting "+name, text, into)
}

func setSetting(ctx context.Context, tx *sql.Tx, name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return settingsTable.put(ctx, tx, name, string(text))
}
