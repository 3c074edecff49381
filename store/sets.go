package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"slices"

	"github.com/vmferry/vmferry/job"
)

// Commit records the checkpoint set of a VM, all disks or none, and replaces the set before. Its generation becomes
// that of the last one plus one; set.Generation is ignored. Repeating the commit of a job's round is no error and makes
// no second generation; a round that was repeated from another snapshot is a new commit. A round that is older than the
// recorded one of the same job fails with Conflict. A job of the same id with another mark is another job: ids can be
// used again.
func (j *Journal) Commit(ctx context.Context, set job.CheckpointSet) error {
	const op = "commit checkpoint set"
	if set.VMUUID == "" || len(set.Disks) == 0 {
		return job.Errorf(op, job.Invalid, "", "the set of job %s has no VM UUID or no disks", set.Job)
	}
	return j.tx(ctx, op, func(tx *sql.Tx) error {
		old, dropped, err := readSet(ctx, tx, set.VMUUID)
		if err != nil {
			return err
		}
		if old != nil && !dropped && old.Job == set.Job && old.Mark == set.Mark {
			if old.Round > set.Round {
				return job.Errorf(op, job.Conflict, "", "round %d of job %s is recorded; round %d is older", old.Round,
					set.Job, set.Round)
			}
			if old.Round == set.Round && old.Snapshot == set.Snapshot && slices.Equal(old.Disks, set.Disks) {
				return nil
			}
		}
		set.Generation = 1
		if old != nil {
			set.Generation = old.Generation + 1
		}
		text, err := json.Marshal(set)
		if err != nil {
			return err
		}
		return setsTable.put(ctx, tx, fold(set.VMUUID), set.Generation, false, string(text))
	})
}

// Set returns the checkpoint set of a VM; nil without an error if there is none, or if it was dropped.
func (j *Journal) Set(ctx context.Context, vmUUID string) (*job.CheckpointSet, error) {
	set, dropped, err := readSet(ctx, j.read, vmUUID)
	if err != nil {
		return nil, failure(ctx, "read checkpoint set", err)
	}
	if dropped {
		return nil, nil
	}
	return set, nil
}

// DropSet marks the set of a VM as no longer true, because its targets are about to be written to. It must return
// before the first such write. It is no error if there is no set.
func (j *Journal) DropSet(ctx context.Context, vmUUID string) error {
	const op = "drop checkpoint set"
	return j.tx(ctx, op, func(tx *sql.Tx) error {
		var generation int64
		var text string
		found, err := setsTable.get(ctx, tx, "WHERE vm_uuid = ?", []any{fold(vmUUID)}, nil, &generation, nil, &text)
		if err != nil || !found {
			return err
		}
		return setsTable.put(ctx, tx, fold(vmUUID), generation, true, text)
	})
}

// dropSets drops all sets and returns how many there were.
func dropSets(ctx context.Context, tx *sql.Tx) (n int, err error) {
	type row struct {
		uuid, body string
		generation int64
	}
	var all []row
	err = each(ctx, tx, setsTable.query+"WHERE dropped = 0", func(rows *sql.Rows) error {
		var r row
		err := setsTable.scan(rows, &r.uuid, &r.generation, nil, &r.body)
		all = append(all, r)
		return err
	})
	for _, r := range all {
		if err == nil {
			err = setsTable.put(ctx, tx, r.uuid, r.generation, true, r.body)
		}
	}
	return len(all), err
}

func readSet(ctx context.Context, q rowQuerier, vmUUID string) (set *job.CheckpointSet, dropped bool, err error) {
	var text []byte
	found, err := setsTable.get(ctx, q, "WHERE vm_uuid = ?", []any{fold(vmUUID)}, nil, nil, &dropped, &text)
	if err != nil || !found {
		return nil, false, err
	}
	set = &job.CheckpointSet{}
	return set, dropped, decode("checkpoint set of VM "+vmUUID, text, set)
}
