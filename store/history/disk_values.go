package history

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"strings"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	gib        = 1 << 30
	hashDigits = 32 // of an id that is too long for its column
)

// holder is the job that a row of vm_disks tells of.
type holder struct {
	job     string
	created int64 // of the job, in microseconds since 1970
}

// disks writes one row for each disk of the VM. It is the same row for all jobs of the VM: the newest job has it.
func (t *tx) disks(ctx context.Context, e Entry) error {
	for _, d := range e.Report.Disks {
		id := diskRow(e.Report, d.DiskID)
		before, mine, err := t.hold(ctx, id, holder{string(e.Report.JobID), e.Report.CreatedAt.UnixMicro()})
		if err != nil {
			return err
		}
		if !mine {
			continue
		}
		key := t.diskKey(id, before, d.DiskID)
		if err := t.putChanged(ctx, disksTable, key, diskValues(e, d)); err != nil {
			return err
		}
	}
	return nil
}

// diskRow names the row of a disk: by the VM, or by the job if nothing is known of the VM.
func diskRow(r report.Report, disk job.DiskID) string {
	if r.VM.UUID != "" {
		return strings.ToLower(r.VM.UUID) + "/" + string(disk)
	}
	return string(r.JobID) + "/" + string(disk)
}

// diskKey is how the row is found. Where the older chain counts its rows, it is the row of the job that had it before.
func (t *tx) diskKey(id, before string, disk job.DiskID) []value {
	c, ok := t.s.tables[disksTable].columns["id"]
	if _, _, whole := c.limits(); !ok || whole || c.auto {
		return []value{{"job_id", before}, {"disk_id", string(disk)}}
	}
	if c.width > 0 && len(id) > c.width {
		sum := sha256.Sum256([]byte(id))
		id = hex.EncodeToString(sum[:])[:hashDigits]
	}
	return []value{{"id", id}}
}

// hold enters the job as the one that the row of a disk tells of. mine is false if a newer job has the row. before is
// the job that had it, or the same one.
func (t *tx) hold(ctx context.Context, id string, now holder) (before string, mine bool, err error) {
	old, known := t.holder[id]
	if !known {
		old, known = t.s.holder[id]
	}
	if !known {
		err := t.QueryRowContext(ctx, "SELECT job_id, job_created FROM vmferry_disks WHERE id = ?", id).
			Scan(&old.job, &old.created)
		if errors.Is(err, sql.ErrNoRows) {
			t.holder[id] = now
			_, err := t.exec(ctx, "INSERT INTO vmferry_disks (id, job_id, job_created) VALUES (?, ?, ?)", id, now.job,
				now.created)
			return now.job, err == nil, err
		}
		if err != nil {
			return "", false, err
		}
	}
	if old == now {
		t.holder[id] = old
		return old.job, true, nil
	}
	n, err := t.exec(ctx, "UPDATE vmferry_disks SET job_id = ?, job_created = ? WHERE id = ? AND job_created <= ?",
		now.job, now.created, id, now.created)
	if err == nil && n > 0 {
		t.holder[id] = now
	}
	return old.job, n > 0, err
}

func diskValues(e Entry, d report.Disk) []value {
	share := 0.0
	if d.Percent != nil {
		share = *d.Percent
	}
	values := []value{
		{"job_id", string(e.Report.JobID)},
		{"disk_id", string(d.DiskID)},
		{"vm_uuid", e.Report.VM.UUID},
		{"vmdk_path", d.File},
		{"datastore", datastore(d.File)},
		{"label", d.Label},
		{"size_gb", (d.BytesCapacity + gib - 1) / gib},
		{"capacity_bytes", d.BytesCapacity},
		{"sync_status", string(d.Status)},
		{"sync_progress_percent", percent(share)},
		{"bytes_synced", d.BytesTransferred},
	}
	if d.ChangeID != "" {
		values = append(values, value{"disk_change_id", d.ChangeID})
	}
	if d.Unit != nil {
		values = append(values, value{"unit_number", int64(*d.Unit)})
	}
	if d.Provisioning != "" {
		values = append(values, value{"provisioning_type", d.Provisioning})
	}
	return values
}

// datastore is the first part of "[datastore] vm/vm.vmdk".
func datastore(file string) string {
	inner, ok := strings.CutPrefix(file, "[")
	name, _, closed := strings.Cut(inner, "]")
	if !ok || !closed {
		return ""
	}
	return name
}

// mappings writes one row for each volume that the job writes to. What a snapshot of the volume is, others write.
func (t *tx) mappings(ctx context.Context, e Entry) error {
	for _, d := range e.Report.Disks {
		if d.Volume == "" {
			continue
		}
		err := t.putChanged(ctx, mappingsTable, []value{{"volume_id", d.Volume}}, []value{
			{"device_path", d.Target},
			{"vm_uuid", e.Report.VM.UUID},
			{"disk_id", string(d.DiskID)},
			{"size_bytes", d.BytesCapacity},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// changeIDs writes one row for each disk and round, when the disk is copied: from which point in time its target is.
func (t *tx) changeIDs(ctx context.Context, e Entry) error {
	r := e.Report
	if r.Origin == report.External || r.Round == 0 {
		return nil
	}
	for _, d := range r.Disks {
		if d.ChangeID == "" || d.Status != job.DiskCopied && d.Status != job.DiskVerifying && d.Status != job.DiskDone {
			continue
		}
		values := []value{
			{"change_id", d.ChangeID},
			{"sync_type", string(d.Mode)},
			{"bytes", orZero(d.BytesToTransfer)},
			{"created_at", began(r)},
		}
		key := []value{{"job_id", string(r.JobID)}, {"disk_id", string(d.DiskID)}, {"round", int64(r.Round)}}
		if err := t.putChanged(ctx, cbtTable, key, values); err != nil {
			return err
		}
	}
	return nil
}

// began is when the present round began.
func began(r report.Report) any {
	for _, round := range r.Rounds {
		if round.Round == r.Round {
			return round.StartedAt
		}
	}
	return nil
}
