package store

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	keepEnded = 72 * time.Hour // how long the keys of a job stay after its end
	keepMark  = time.Hour      // how long the stream of a deleted job says so: readers come back within it
)

// call is one report, or one deletion, as keys and arguments of its script.
type call struct {
	keys []string
	args []any
}

// keysOf are the keys of both scripts.
func keysOf(id job.ID) []string { return []string{keySnap(id), keyEvents(id), keyActive, keyRecent} }

func newCall(r report.Report) (call, error) {
	if r.Epoch < 0 || r.Seq < 0 || r.Epoch == 0 && r.Seq == 0 {
		return call{}, job.Errorf("publish report", job.Invalid, "", "the report of job %s has no version (%v)",
			r.JobID, r.Version())
	}
	whole, err := json.Marshal(r)
	if err != nil {
		return call{}, fmt.Errorf("encode report of job %s: %w", r.JobID, err)
	}
	disks, err := json.Marshal(r.Disks)
	if err != nil {
		return call{}, fmt.Errorf("encode disks of job %s: %w", r.JobID, err)
	}
	c := call{
		keys: keysOf(r.JobID),
		args: []any{
			r.Epoch, r.Seq, string(r.JobID), whole, r.ObservedAt.UnixMilli(), lifetime(r).Milliseconds(),
			streamEntries, channelEvents, channelEvent(r.JobID), endedJobs,
		},
	}
	c.args = append(c.args, fields(r)...)
	c.args = append(c.args, "disks", disks)
	return c, nil
}

func newErase(d report.Deleted) (call, error) {
	if d.Epoch < 0 || d.Seq < 0 || d.Epoch == 0 && d.Seq == 0 {
		return call{}, job.Errorf("erase job", job.Invalid, "", "the deletion of job %s has no version (%v)", d.JobID,
			d.Version())
	}
	mark, err := json.Marshal(d)
	if err != nil {
		return call{}, fmt.Errorf("encode deletion of job %s: %w", d.JobID, err)
	}
	return call{
		keys: keysOf(d.JobID),
		args: []any{
			d.Epoch, d.Seq, string(d.JobID), mark, keepMark.Milliseconds(), channelEvents, channelEvent(d.JobID),
		},
	}, nil
}

// lifetime is how long the keys of a job stay: 0, without end, until the job has ended. It is computed from the times
// in the report, so that it does not depend on when the report is written.
func lifetime(r report.Report) time.Duration {
	if !r.Status.Terminal() {
		return 0
	}
	if r.EndedAt == nil {
		return keepEnded
	}
	return max(time.Second, min(keepEnded, keepEnded-r.ObservedAt.Sub(*r.EndedAt)))
}

// fields are the flat fields of the hash: names as in the JSON, "" for an unknown value. All are written each time, so
// that no value of an older report is left.
func fields(r report.Report) []any {
	health := make([]string, len(r.Health))
	for i, h := range r.Health {
		health[i] = string(h)
	}
	var failed report.Error
	if r.Error != nil {
		failed = *r.Error
	}
	return []any{
		"job_id", string(r.JobID), "observed_at", when(&r.ObservedAt), "origin", string(r.Origin),
		"vm_name", r.VM.Name, "vm_path", r.VM.Path, "vm_ref", r.VM.Ref, "vm_uuid", r.VM.UUID,
		"mode", string(r.Mode), "status", string(r.Status), "phase", string(r.Phase), "operation", r.Operation,
		"health", strings.Join(health, ","), "round", r.Round,
		"overall_percent", number(&r.OverallPercent), "percent", number(r.Percent),
		"bytes_capacity", count(r.BytesCapacity), "bytes_to_transfer", count(r.BytesToTransfer),
		"bytes_transferred", r.BytesTransferred, "bytes_skipped", r.BytesSkipped, "bytes_resent", r.BytesResent,
		"bytes_per_second", number(r.BytesPerSecond), "bytes_per_second_average", number(r.BytesPerSecondAverage),
		"bytes_per_second_peak", number(&r.BytesPerSecondPeak),
		"eta_seconds", count(r.ETASeconds), "eta_at", when(r.ETAAt), "stalled_since", when(r.StalledSince),
		"created_at", when(&r.CreatedAt), "started_at", when(r.StartedAt), "ended_at", when(r.EndedAt),
		"error_code", string(failed.Code), "error_message", failed.Message, "error_next", failed.Next,
	}
}

func count(n *int64) string {
	if n == nil {
		return ""
	}
	return strconv.FormatInt(*n, 10)
}

// number writes a number without an exponent, as JSON does for all but huge numbers.
func number(f *float64) string {
	if f == nil {
		return ""
	}
	return strconv.FormatFloat(*f, 'f', -1, 64)
}

func when(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
