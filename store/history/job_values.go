package history

import (
	"cmp"
	"fmt"
	"math"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Words of the older chain, as its tables hold them.
const (
	typeInitial     = "initial"
	typeIncremental = "incremental"
)

const mib = 1 << 20

// jobValues are the columns of replication_jobs. A column that is left out keeps what it has.
func (t *tx) jobValues(e Entry) []value {
	r := e.Report
	done, total := moved(r)
	values := []value{
		{"source_vm_id", cmp.Or(r.VM.UUID, r.VM.Ref)},
		{"source_vm_name", r.VM.Name},
		{"source_vm_path", r.VM.Path},
		{"status", string(status(e))},
		{"progress_percent", percent(r.OverallPercent)},
		{"current_operation", operation(e)},
		{"bytes_transferred", done},
		{"total_bytes", total},
		{"transfer_speed_bps", int64(orZero(r.BytesPerSecond))},
		{"vma_current_phase", string(r.Phase)},
		{"vma_throughput_mbps", orZero(r.BytesPerSecond) / mib},
		{"vma_eta_seconds", number(r.ETASeconds)},
		{"vma_last_poll_at", lookedAt(e)},
		{"created_at", r.CreatedAt},
		{"updated_at", t.now},
		{"started_at", moment(r.StartedAt)},
		{"completed_at", moment(r.EndedAt)},
	}
	if words := (map[job.Mode]string{job.Full: typeInitial, job.Incremental: typeIncremental}); words[r.Mode] != "" {
		values = append(values, value{"replication_type", words[r.Mode]}, value{"vma_sync_type", string(r.Mode)})
	}
	if r.Snapshot != nil && r.Snapshot.Ref != "" {
		values = append(values, value{"snapshot_id", r.Snapshot.Ref})
	}
	if len(r.Disks) > 0 {
		values = append(values, value{"target_device", r.Disks[0].Target})
	}
	return append(append(values, errorValues(e)...), knownValues(r)...)
}

// errorValues are empty when nothing is wrong, so that an error that was overcome does not stay.
func errorValues(e Entry) []value {
	var message, class, details any
	if x := e.Report.Error; x != nil {
		message, class, details = x.Message, classify(x.Code), x.Message
		if x.Next != "" {
			details = x.Message + ". " + x.Next
		}
	}
	if e.missed() {
		class, details = classify(cmp.Or(e.Watch.Kind, job.Unavailable)), e.Watch.Reason
		if e.Watch.State == job.Lost {
			message = "lost: " + e.Watch.Reason
		}
	}
	return []value{{"error_message", message}, {"vma_error_classification", class}, {"vma_error_details", details}}
}

// knownValues are those that are left out while they are not known.
func knownValues(r report.Report) (values []value) {
	add := func(column, v string) {
		if v != "" {
			values = append(values, value{column, v})
		}
	}
	add("vcenter_host", r.VM.VCenter)
	add("datacenter", r.VM.Datacenter)
	if len(r.Disks) > 0 {
		add("change_id", r.Disks[0].ChangeID)
		add("previous_change_id", r.Disks[0].PreviousChangeID)
	}
	return values
}

// status is that of the row. A job that waits for its cut-over has not ended, and the older chain has no word for it.
func status(e Entry) job.Status {
	switch {
	case e.missed():
		return e.Watch.State
	case e.Report.Status == job.WaitingCutover:
		return job.Running
	default:
		return e.Report.Status
	}
}

// operation says what a job does, and of one that is unreachable or lost since when.
func operation(e Entry) string {
	if e.missed() {
		return fmt.Sprintf("%s since %s: %s", e.Watch.State, e.Watch.Since.UTC().Format(time.RFC3339), e.Watch.Reason)
	}
	return e.Report.Operation
}

// moved are the bytes of all rounds of a job, so that a new round makes no number fall.
func moved(r report.Report) (done, total int64) {
	if len(r.Rounds) == 0 {
		return r.BytesTransferred, orZero(r.BytesToTransfer)
	}
	for _, round := range r.Rounds {
		done += round.BytesTransferred
		total += round.BytesToTransfer
	}
	return done, total
}

// skipped are the bytes that were found zero and not sent, of all rounds.
func (e Entry) skipped() (n int64) {
	if len(e.Report.Rounds) == 0 {
		return e.Report.BytesSkipped
	}
	for _, round := range e.Report.Rounds {
		n += round.BytesSkipped
	}
	return n
}

// percent is rounded down: nothing but 100 becomes 100.
func percent(p float64) float64 { return math.Floor(max(0, min(p, 100))*100+1e-6) / 100 }

// classify gives the kind of an error in the words of the older chain.
func classify(k job.Kind) string {
	switch k {
	case job.Unavailable, job.Timeout:
		return "connection"
	case job.Auth:
		return "authentication"
	case job.Permission:
		return "permission"
	case job.IO, job.NoSpace, job.Corrupt, job.CBTInvalid:
		return "disk"
	default:
		return "system"
	}
}

// lookedAt is when the job was last heard of.
func lookedAt(e Entry) time.Time {
	if e.Watch != nil {
		return e.Watch.PolledAt
	}
	return e.Report.ObservedAt
}

func orZero[T int64 | float64](p *T) T {
	if p == nil {
		return 0
	}
	return *p
}

func number(p *int64) any {
	if p == nil {
		return nil
	}
	return *p
}

func moment(p *time.Time) any {
	if p == nil {
		return nil
	}
	return *p
}
