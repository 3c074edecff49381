package report

import (
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

func lower(s string) string { return strings.ToLower(s) }

// PolledBuilder makes the reports of a job that an older VMA is asked for. It belongs to one goroutine, and keeps the
// rules of ExternalBuilder: within an attempt nothing falls, and 100 is the percent of a completed job only.
type PolledBuilder struct {
	external *ExternalBuilder
	last     Polled
	overall  float64
}

// NewPolledBuilder begins, or goes on from the last report before a restart.
func NewPolledBuilder(id job.ID, last *Report, now time.Time) *PolledBuilder {
	b := &PolledBuilder{external: NewExternalBuilder(id, last, now)}
	if last != nil {
		b.overall = last.OverallPercent
		b.last.VM, b.last.Operation = last.VM, ""
	}
	return b
}

// Take takes the numbers of an answer, as TakeNumbers says. An answer that is the same as the one before changes
// nothing: a job whose numbers do not move becomes stale. Errors are of kind Invalid: the answer is not used.
func (b *PolledBuilder) Take(t TakeNumbers, now time.Time) error {
	a := t.Answer
	if err := a.Check(); err != nil {
		return err
	}
	updates := a.updates(t.Ends)
	same := b.last.same(a)
	b.last = a
	if same && !t.Ends && !t.Again {
		return nil
	}
	if t.Again {
		b.overall = 0
		var zero int64
		for _, u := range updates {
			u.BytesTransferred, u.Percent, u.ThroughputBPS, u.ErrorMessage = &zero, nil, nil, ""
			if StatusOf(u.Status).Terminal() {
				u.Status = string(job.Running)
			}
			if _, err := b.external.Apply(u, now); err != nil {
				return err
			}
		}
	}
	for _, u := range updates {
		if _, err := b.external.Apply(u, now); err != nil {
			return err
		}
	}
	return nil
}

// Report is the report of the last answer. Stand out: what the answer names is shown as it is.
func (b *PolledBuilder) Report(now time.Time) Report {
	r, a := b.external.Report(now), b.last
	if a.VM != (VM{}) {
		r.VM = a.VM
	}
	if a.Operation != "" && !r.Status.Terminal() {
		r.Operation = clipped(a.Operation)
	}
	if p := job.Phase(lower(a.Phase)); slices.Contains(job.Way(), p) && !r.Status.Terminal() {
		r.Phase = p
	}
	if !a.StartedAt.IsZero() && !r.Phase.Terminal() {
		r.StartedAt = stamp(a.StartedAt)
	}
	r.BytesSkipped = a.BytesSkipped
	for i := range r.Disks {
		for _, d := range a.Disks {
			if d.ID == r.Disks[i].DiskID {
				r.Disks[i].BytesSkipped = d.BytesSkipped
				if d.Label != "" {
					r.Disks[i].Label = clipped(d.Label)
				}
			}
		}
	}
	if n := r.BytesToTransfer; n != nil && a.BytesSkipped > 0 && !r.Status.Terminal() {
		r.Percent = percent(add(r.BytesTransferred, a.BytesSkipped), *n, false)
		r.OverallPercent = max(r.OverallPercent, min(99, *r.Percent*0.99))
	}
	b.overall = max(b.overall, r.OverallPercent)
	r.OverallPercent = b.overall
	return r
}

// Check refuses an answer that a report can't hold. Errors are of kind Invalid.
func (a Polled) Check() error {
	if len(a.Disks) > MaxExternalDisks {
		return job.Errorf("read the VMA's answer", job.Invalid, "", "the job has more than %d disks", MaxExternalDisks)
	}
	for _, u := range a.updates(false) {
		if err := u.Check(); err != nil {
			return err
		}
	}
	return nil
}

// same says whether two answers have the same numbers and words.
func (a Polled) same(b Polled) bool {
	if a.Status != b.Status || a.Phase != b.Phase || a.Operation != b.Operation || len(a.Disks) != len(b.Disks) ||
		!equal(a.BytesTransferred, b.BytesTransferred) || !equal(a.TotalBytes, b.TotalBytes) ||
		a.BytesSkipped != b.BytesSkipped || a.Error != b.Error || !a.UpdatedAt.Equal(b.UpdatedAt) {
		return false
	}
	for i, d := range a.Disks {
		e := b.Disks[i]
		if d.ID != e.ID || d.Status != e.Status || !equal(d.BytesTransferred, e.BytesTransferred) {
			return false
		}
	}
	return true
}

func equal(a, b *int64) bool {
	return a == b || a != nil && b != nil && *a == *b
}

// oldStages are the stages of older tools for our own phases.
var oldStages = map[job.Phase]string{ //nolint:gochecknoglobals // a constant table
	job.Preflight: "Discover", job.EnablingCBT: "EnableCBT", job.Snapshot: "Snapshot", job.Connect: "PrepareVolumes",
	job.Transfer: "Transfer", job.Verify: "Finalize", job.Commit: "Finalize", job.Cleanup: "Cleanup",
}

// updates are the answer as a copy tool would have posted it: each disk, then the job. ends says whether its status is
// believed to be the end.
func (a Polled) updates(ends bool) []Update {
	stage := a.Phase
	if s, ok := oldStages[job.Phase(lower(a.Phase))]; ok {
		stage = s
	}
	var out []Update
	for _, d := range a.Disks {
		u := Update{
			DiskID: string(d.ID), Stage: stage, Status: d.Status, BytesTransferred: d.BytesTransferred,
			TotalBytes: d.TotalBytes, ThroughputBPS: d.BytesPerSecond, SyncType: a.SyncType,
		}
		if StatusOf(d.Status) == job.StatusCompleted && !enough(d.BytesTransferred, d.BytesSkipped, d.TotalBytes) {
			u.Status = string(job.Running)
		}
		out = append(out, u)
	}
	u := Update{
		Stage: stage, Status: string(a.Status), BytesTransferred: a.BytesTransferred, TotalBytes: a.TotalBytes,
		ThroughputBPS: a.BytesPerSecond, Percent: a.Percent, SyncType: a.SyncType, ErrorMessage: a.Error,
	}
	if a.Status.Terminal() && !ends {
		u.Status = string(job.Running)
	}
	return append(out, u)
}
