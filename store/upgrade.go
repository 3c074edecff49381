package store

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"slices"
	"strings"

	"github.com/pressly/goose/v3"

	"github.com/vmferry/vmferry/job"
)

// goMigrations are the versions of the tables that SQL alone cannot make.
func goMigrations() []*goose.Migration {
	return []*goose.Migration{
		goose.NewGoMigration(sealsVersion, &goose.GoFunc{RunTx: addVolumes}, nil),
		goose.NewGoMigration(tokensVersion, &goose.GoFunc{RunTx: addTokens}, nil),
		goose.NewGoMigration(leasesVersion, &goose.GoFunc{RunTx: addLeases}, nil),
	}
}

// addLeases makes the table of leases. A volume that has none was never granted: its lease is free.
func addLeases(ctx context.Context, tx *sql.Tx) error {
	const schema = `
CREATE TABLE leases (
    volume TEXT    PRIMARY KEY, -- stays when the volume's row gets another id
    epoch  INTEGER NOT NULL,    -- of the newest grant
    body   TEXT    NOT NULL,    -- JSON of job.Lease
    seal   BLOB    NOT NULL
) STRICT;`
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return err
	}
	return sealSchema(ctx, tx)
}

// addTokens makes the table of tokens.
func addTokens(ctx context.Context, tx *sql.Tx) error {
	const schema = `
CREATE TABLE tokens (
    id   TEXT PRIMARY KEY, -- part of the token's text
    body TEXT NOT NULL,    -- JSON of job.Token; of the token's text only a digest
    seal BLOB NOT NULL
) STRICT;`
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return err
	}
	return sealSchema(ctx, tx)
}

const volumesSchema = `
CREATE TABLE volumes (
    id     TEXT PRIMARY KEY,
    job    TEXT NOT NULL, -- the newest job that claimed it; '' if that was deleted
    vm     TEXT NOT NULL, -- instance UUID, lower case; '' until preflight found it
    disk   TEXT NOT NULL,
    target TEXT NOT NULL,
    body   TEXT NOT NULL, -- JSON of job.VolumeRecord
    seal   BLOB NOT NULL
) STRICT;
CREATE INDEX volumes_job ON volumes (job);`

// addVolumes makes the ledger, with a row for each target that an earlier version wrote to. It seals all rows, and
// gives the journal what its mark needs.
func addVolumes(ctx context.Context, tx *sql.Tx) error {
	for _, t := range append(believed(), reportsTable) {
		if t.since > 0 {
			continue
		}
		if err := t.addSeals(ctx, tx); err != nil {
			return err
		}
	}
	if _, err := tx.ExecContext(ctx, volumesSchema); err != nil {
		return err
	}
	var l oldTargets
	if err := l.read(ctx, tx); err != nil {
		return err
	}
	for _, r := range l.records() {
		if err := putVolume(ctx, tx, r); err != nil {
			return err
		}
	}
	if err := addMark(ctx, tx); err != nil {
		return err
	}
	return sealSchema(ctx, tx)
}

// sealSchema keeps a digest of the tables' definitions. It is the last act of each migration.
func sealSchema(ctx context.Context, tx *sql.Tx) error {
	digest, err := schemaDigest(ctx, tx)
	if err != nil {
		return err
	}
	return setSetting(ctx, tx, settingSchema, digest)
}

// addSeals seals the rows of a table that had no seals.
func (t table) addSeals(ctx context.Context, tx *sql.Tx) error {
	if _, err := tx.ExecContext(ctx, "ALTER TABLE "+t.name+" ADD COLUMN seal BLOB NOT NULL DEFAULT x''"); err != nil {
		return err
	}
	var ids []int64
	var seals [][]byte
	err := each(ctx, tx, "SELECT rowid, "+strings.Join(t.cols, ", ")+" FROM "+t.name, func(rows *sql.Rows) error {
		var id int64
		values := make([]any, len(t.cols))
		dest := []any{&id}
		for i := range values {
			dest = append(dest, &values[i])
		}
		if err := rows.Scan(dest...); err != nil {
			return err
		}
		ids, seals = append(ids, id), append(seals, t.seal(values))
		return nil
	})
	update := "UPDATE " + t.name + " SET seal = ? WHERE rowid = ?" //nolint:gosec // the name is constant
	for i, id := range ids {
		if err == nil {
			_, err = tx.ExecContext(ctx, update, seals[i], id)
		}
	}
	return err
}

// oldTargets is what a journal without a ledger knows of targets.
type oldTargets struct {
	sets    []job.CheckpointSet // the newest first
	dropped []job.CheckpointSet // likewise
	jobs    []job.State         // the newest first
	rows    map[string]job.VolumeRecord
}

func (l *oldTargets) read(ctx context.Context, tx *sql.Tx) error {
	err := each(ctx, tx, "SELECT id, state FROM jobs ORDER BY created_at DESC, id DESC", func(rows *sql.Rows) error {
		var id string
		var text []byte
		var st job.State
		if err := rows.Scan(&id, &text); err != nil {
			return err
		}
		if err := decode("job "+id, text, &st); err != nil {
			return err
		}
		l.jobs = append(l.jobs, st)
		return nil
	})
	if err != nil {
		return err
	}
	return each(ctx, tx, "SELECT vm_uuid, dropped, body FROM sets ORDER BY vm_uuid", func(rows *sql.Rows) error {
		var id string
		var dropped bool
		var text []byte
		var set job.CheckpointSet
		if err := rows.Scan(&id, &dropped, &text); err != nil {
			return err
		}
		if err := decode("checkpoint set of VM "+id, text, &set); err != nil {
			return err
		}
		if dropped {
			l.dropped = append(l.dropped, set)
		} else {
			l.sets = append(l.sets, set)
		}
		return nil
	})
}

// records makes one row for each target. Where several have named a target, it belongs to the oldest job that has not
// ended, else to the newest set, else to the newest job that has ended, else to a set that was dropped.
func (l *oldTargets) records() []job.VolumeRecord {
	l.rows = map[string]job.VolumeRecord{}
	newest := func(a, b job.CheckpointSet) int { return b.Committed.Compare(a.Committed) }
	slices.SortStableFunc(l.sets, newest)
	slices.SortStableFunc(l.dropped, newest)
	for _, st := range slices.Backward(l.jobs) {
		if !st.Phase.Terminal() {
			l.addJob(st)
		}
	}
	for _, set := range l.sets {
		l.addSet(set, false)
	}
	for _, st := range l.jobs {
		if st.Phase.Terminal() {
			l.addJob(st)
		}
	}
	for _, set := range l.dropped {
		l.addSet(set, true)
	}
	out := make([]job.VolumeRecord, 0, len(l.rows))
	for _, r := range l.rows {
		out = append(out, r)
	}
	sortVolumes(out)
	return out
}

// addJob adds the targets that a job uses, or that it wrote to or made before it ended.
func (l *oldTargets) addJob(st job.State) {
	began := slices.ContainsFunc(st.Phases, func(p job.PhaseRun) bool { return p.Phase == job.Transfer })
	for _, d := range st.Disks {
		made := slices.Contains(st.Made, d.Target)
		left := began || made
		if made && st.Purge {
			left = false
		}
		if _, has := l.rows[d.Target]; has || d.Target == "" || st.Phase.Terminal() && !left {
			continue
		}
		r := job.VolumeRecord{
			ID: rand.Text(), Target: d.Target, Identity: d.TargetIdentity, Job: st.ID, Size: d.Disk.Capacity,
			ClaimedAt: st.CreatedAt.UTC(), Owner: l.owner(st.VM.UUID, d.Disk.ID),
		}
		r.MadeBy = l.maker(r)
		if began {
			r.Generation, r.Writing = 1, l.writes(st.ID)
		}
		l.rows[d.Target] = r
	}
}

// addSet adds the targets of a set. The target of a job that has not ended gets the set's stamp, if the job does not
// write.
func (l *oldTargets) addSet(set job.CheckpointSet, dropped bool) {
	for _, d := range set.Disks {
		r := job.VolumeRecord{
			ID: rand.Text(), Target: d.Target, Identity: d.TargetIdentity, Stamp: d.TargetStamp, Job: set.Job,
			Generation: 1, Writing: dropped, Size: d.Capacity, ClaimedAt: set.Committed.UTC(),
			Owner: l.owner(set.VMUUID, d.Disk),
		}
		r.MadeBy = l.maker(r)
		old, has := l.rows[d.Target]
		if !has {
			l.rows[d.Target] = r
			continue
		}
		if dropped || !old.Owner.Same(r.Owner) || old.Identity != "" && old.Identity != r.Identity {
			continue
		}
		r.ID, r.Job, r.ClaimedAt = old.ID, old.Job, old.ClaimedAt
		if r.Writing = l.writes(old.Job); r.Writing {
			r.Stamp = "" // it is of the round before
		}
		l.rows[d.Target] = r
	}
}

// writes says whether the job has not ended and may have written since the last set.
func (l *oldTargets) writes(id job.ID) bool {
	for _, st := range l.jobs {
		if st.ID == id {
			return st.Phase == job.Transfer || st.Phase == job.Verify || st.Phase == job.Commit
		}
	}
	return false
}

// owner says whose a target is, with what is known of the VM.
func (l *oldTargets) owner(uuid string, disk job.DiskID) job.VolumeOwner {
	o := job.VolumeOwner{VM: fold(uuid), Name: uuid, Disk: disk}
	for _, st := range l.jobs {
		if fold(st.VM.UUID) == o.VM {
			o.VCenter, o.Name = st.VM.VCenterID, cmp.Or(st.VM.Path, st.VM.Name, st.Spec.VM, uuid)
			return o
		}
	}
	return o
}

// maker finds the job that made the target, among those of its VM.
func (l *oldTargets) maker(r job.VolumeRecord) job.ID {
	for _, st := range l.jobs {
		if fold(st.VM.UUID) == r.Owner.VM && slices.Contains(st.Made, r.Target) {
			return st.ID
		}
	}
	return ""
}

// sortVolumes puts rows in the order in which they were claimed.
func sortVolumes(all []job.VolumeRecord) {
	slices.SortFunc(all, func(a, b job.VolumeRecord) int {
		return cmp.Or(a.ClaimedAt.Compare(b.ClaimedAt), cmp.Compare(a.ID, b.ID))
	})
}

// each runs a query and calls f for each row.
func each(ctx context.Context, q querier, query string, f func(*sql.Rows) error) error {
	rows, err := q.QueryContext(ctx, query)
	if err != nil {
		return err
	}
	for rows.Next() {
		if err := f(rows); err != nil {
			_ = rows.Close() // f's error tells more
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return rows.Close()
}
