package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Volumes returns all rows of the ledger, those that were claimed first before the others.
func (j *Journal) Volumes(ctx context.Context) ([]job.VolumeRecord, error) {
	return j.volumes(ctx, "")
}

// VolumesOf returns the rows whose newest claim is that of this job, in the order of Volumes. It is no error if there
// is no such job.
func (j *Journal) VolumesOf(ctx context.Context, id job.ID) ([]job.VolumeRecord, error) {
	return j.volumes(ctx, "WHERE v.job = ?", id)
}

func (j *Journal) volumes(ctx context.Context, where string, args ...any) ([]job.VolumeRecord, error) {
	const query = `SELECT v.id, v.job, v.vm, v.disk, v.target, v.body, v.seal, coalesce(jobs.active, 0)
		FROM volumes AS v LEFT JOIN jobs ON jobs.id = v.job `
	all, err := list(ctx, j.read, "list volumes", func(rows *sql.Rows) (r job.VolumeRecord, err error) {
		var id string
		var active int64
		var text []byte
		if err := volumesTable.scanMore(rows, []any{&active}, &id, nil, nil, nil, nil, &text); err != nil {
			return r, err
		}
		err = decode("volume "+id, text, &r)
		r.JobActive = active != 0
		return r, err
	}, query+where, args...)
	if err != nil {
		return nil, err
	}
	sortVolumes(all)
	return all, nil
}

// ChangeVolumes adds rows to the ledger or replaces those of the same ID, and removes the rows with the IDs in drop,
// all in one durable transaction. It is no error if a row to remove is not there. A row without an ID, or one that is
// in both lists, fails with Invalid and changes nothing.
func (j *Journal) ChangeVolumes(ctx context.Context, save []job.VolumeRecord, drop []string) error {
	const op = "change volumes"
	dropped := map[string]bool{}
	for _, id := range drop {
		dropped[id] = true
	}
	for _, r := range save {
		if r.ID == "" || dropped[r.ID] {
			return job.Errorf(op, job.Invalid, "", "the row for %s has no id, or is to be removed as well", r.Target)
		}
	}
	if len(save)+len(drop) == 0 {
		return nil
	}
	return j.tx(ctx, op, func(tx *sql.Tx) error {
		for _, id := range drop {
			if _, err := tx.ExecContext(ctx, "DELETE FROM volumes WHERE id = ?", id); err != nil {
				return err
			}
		}
		for _, r := range save {
			if err := putVolume(ctx, tx, r); err != nil {
				return err
			}
		}
		return nil
	})
}

func putVolume(ctx context.Context, tx *sql.Tx, r job.VolumeRecord) error {
	text, err := json.Marshal(r)
	if err != nil {
		return job.Errorf("change volumes", job.Internal, "", "encode volume %s: %w", r.ID, err)
	}
	return volumesTable.put(ctx, tx, r.ID, r.Job, fold(r.Owner.VM), string(r.Owner.Disk), r.Target, string(text))
}

// forgetJob takes a deleted job out of the ledger.
func forgetJob(ctx context.Context, tx *sql.Tx, id job.ID) error {
	all, err := readVolumes(ctx, tx)
	if err != nil {
		return err
	}
	for _, r := range all {
		if now := r.Without(id); now != r {
			if err := putVolume(ctx, tx, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// renewVolumes gives all rows new ids, as if they had been adopted, and returns how many there are.
func renewVolumes(ctx context.Context, tx *sql.Tx) (int, error) {
	all, err := readVolumes(ctx, tx)
	if err != nil {
		return 0, err
	}
	if _, err := tx.ExecContext(ctx, "DELETE FROM volumes"); err != nil {
		return 0, err
	}
	for _, r := range all {
		r.Lease = r.LeaseID()
		r.ID, r.AdoptedAt, r.Renewed = rand.Text(), time.Now().UTC(), true
		if err := putVolume(ctx, tx, r); err != nil {
			return 0, err
		}
	}
	return len(all), nil
}

func readVolumes(ctx context.Context, tx *sql.Tx) (all []job.VolumeRecord, err error) {
	err = each(ctx, tx, volumesTable.query, func(rows *sql.Rows) error {
		var r job.VolumeRecord
		var text []byte
		if err := volumesTable.scan(rows, nil, nil, nil, nil, nil, &text); err != nil {
			return err
		}
		if err := decode("volume", text, &r); err != nil {
			return err
		}
		all = append(all, r)
		return nil
	})
	return all, err
}
