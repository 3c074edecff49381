package cli

import (
	"fmt"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/report"
)

// picture is the copy as a report of a job, for the views.
func (w *copyWatch) picture(over bool, now time.Time) report.Report {
	r := report.Report{
		JobID: job.ID(orDefault(w.post.job, "copy")), ObservedAt: now, Status: job.Running, Phase: job.Transfer,
		Mode:      w.mode,
		Operation: fmt.Sprintf("copies %d disks", len(w.disks)), Health: []report.Health{}, VM: report.VM{Name: "copy"},
		StartedAt: &w.began, BytesPerSecondPeak: w.peak,
	}
	var sum job.Counters
	known, busy, verifying := true, 0, 0
	for _, d := range w.disks {
		disk := d.picture(w.mode, now)
		r.Disks = append(r.Disks, disk)
		report.AddSpeed(&r.BytesPerSecond, report.SpeedOf(d.speed))
		if eta := disk.ETASeconds; eta != nil && (r.ETASeconds == nil || *eta > *r.ETASeconds) {
			r.ETASeconds = eta
		}
		sum.Transferred += d.last.Transferred
		sum.Skipped += d.last.Skipped
		sum.ToTransfer += d.last.ToTransfer
		known = known && (d.last.ToTransfer > 0 || d.over != nil)
		if d.over == nil {
			busy++
		}
		if disk.Status == job.DiskVerifying {
			verifying++
		}
	}
	percent := 0.0
	if known {
		percent = copyPercent(sum) // not before all sizes are known: the percentage must not go down
		r.BytesToTransfer = &sum.ToTransfer
	}
	r.BytesTransferred, r.BytesSkipped, r.Percent, r.OverallPercent = sum.Transferred, sum.Skipped, &percent, percent
	if d := w.disks[0].disk; d.alone {
		r.Operation = "copies " + nbd.Redact(d.task.Source) + " to " + nbd.Redact(d.target)
	}
	if verifying > 0 && verifying == busy {
		r.Phase, r.Operation = job.Verify, "reads the targets back and compares"
	}
	if over {
		ending(&r, failureOf(w.all()), now)
	}
	return r
}

// picture is one disk in the report. An error is part of it only if other disks go on; else the command ends with it.
func (d *diskWatch) picture(mode job.Mode, now time.Time) report.Disk {
	c, percent := d.last, copyPercent(d.last)
	r := report.Disk{
		DiskID: job.DiskID(d.disk.id), Label: d.disk.label,
		Target: nbd.Redact(d.disk.target), Mode: mode, Status: job.DiskRunning,
		Attempt: 1, Percent: &percent,
		BytesTransferred: c.Transferred, BytesSkipped: c.Skipped, BytesDurable: c.Durable, BytesVerified: c.Verified,
		BytesPerSecond: report.SpeedOf(d.speed),
	}
	if c.ToTransfer > 0 {
		r.BytesToTransfer = &c.ToTransfer
	}
	if c.ToVerify > 0 {
		r.Status = job.DiskVerifying
	}
	if d.over == nil {
		if left := float64(c.ToTransfer - c.Done()); d.speed >= 1 && left > 0 {
			eta := int64(left / d.speed)
			r.ETASeconds = &eta
		}
		return r
	}
	err := d.over.err
	switch copyStatus(err) {
	case string(job.StatusCompleted):
		percent, r.Status = 100, job.DiskDone
	case string(job.StatusCancelled):
		r.Status = job.DiskPaused
	default:
		r.Status = job.DiskFailed
		if !d.disk.alone {
			r.LastCause = &report.Error{
				Code: job.KindOf(err), Message: err.Error(), Next: job.NextOf(err),
				Phase: job.Transfer, At: now,
			}
		}
	}
	return r
}

// ending changes the report to that of a copy that has ended. The error itself is written when the command ends.
func ending(r *report.Report, err error, now time.Time) {
	r.EndedAt, r.ETASeconds = &now, nil
	switch copyStatus(err) {
	case string(job.StatusCompleted):
		hundred := 100.0
		r.Status, r.Phase, r.Operation = job.StatusCompleted, job.Completed, "every byte is on the targets"
		r.Percent, r.OverallPercent = &hundred, hundred
	case string(job.StatusCancelled):
		r.Status, r.Phase, r.Operation = job.StatusCancelled, job.PhaseCancelled, "cancelled"
	default:
		r.Status, r.Phase, r.Operation = job.StatusFailed, job.Failed, "failed"
	}
}
