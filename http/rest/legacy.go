package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// maxLegacy is the most that is read of an older VMA's answer: that of a job of 256 disks has less than a tenth of it.
const maxLegacy = 1 << 20

// Poll asks an older VMA for a job, by GET /api/v1/progress/{id}. found is false if the VMA says that it does not know
// the job. An answer that is not about this job, is no JSON, is too long, or leads elsewhere is an error of kind
// Corrupt. The caller limits the time by ctx.
func (c *Client) Poll(ctx context.Context, id job.ID) (answer report.Polled, found bool, err error) {
	const op = "ask the VMA for a job"
	resp, err := c.send(ctx, http.MethodGet, "/api/v1/progress/"+url.PathEscape(string(id)), nil, nil)
	if err != nil {
		return report.Polled{}, false, err
	}
	defer func() { _ = resp.Body.Close() }() // nothing more is read from it
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxLegacy+1))
	if err != nil {
		return report.Polled{}, false, unreachable(ctx, err)
	}
	kind, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	var head struct {
		JobID *job.ID `json:"job_id"`
		Error any     `json:"error"`
	}
	jsonErr := json.Unmarshal(b, &head)
	next := "Check whether a VMA serves this address"
	switch {
	case len(b) > maxLegacy:
		err = job.Errorf(op, job.Corrupt, next, "the answer is longer than %d bytes", maxLegacy)
	case resp.StatusCode >= http.StatusMultipleChoices && resp.StatusCode < http.StatusBadRequest:
		err = job.Errorf(op, job.Corrupt, "Name the address of the VMA itself",
			"the answer is a redirect (%d), which is not followed", resp.StatusCode)
	case resp.StatusCode == http.StatusNotFound && jsonErr == nil && head.Error != nil &&
		(head.JobID == nil || *head.JobID == id):
		return report.Polled{}, false, nil
	case resp.StatusCode >= http.StatusBadRequest:
		err = job.Errorf(op, kindOfStatus(resp.StatusCode), next, "the VMA answers %d", resp.StatusCode)
		if resp.StatusCode == http.StatusNotFound {
			err = job.Errorf(op, job.Corrupt, next, "the answer is 404, but not that of a VMA")
		}
	case resp.StatusCode != http.StatusOK:
		err = job.Errorf(op, job.Corrupt, next, "the VMA answers %d", resp.StatusCode)
	case len(bytes.TrimSpace(b)) == 0:
		err = job.Errorf(op, job.Corrupt, next, "the answer is empty")
	case jsonErr != nil:
		err = job.Errorf(op, job.Corrupt, next, "the answer is not the JSON of a job (%s)", Clip(kind))
	case head.JobID == nil:
		err = job.Errorf(op, job.Corrupt, next, "the answer names no job")
	case *head.JobID != id:
		err = job.Errorf(op, job.Corrupt, next, "the answer is about job %s", Clip(string(*head.JobID)))
	}
	if err != nil {
		return report.Polled{}, false, err
	}
	answer, err = readLegacy(b)
	return answer, err == nil, err
}

// legacyAnswer is what is read of an older VMA's answer. Anything may be missing.
type legacyAnswer struct {
	Status           string   `json:"status"`
	SyncType         string   `json:"sync_type"`
	Phase            string   `json:"phase"`
	Percentage       *float64 `json:"percentage"`
	CurrentOperation string   `json:"current_operation"`
	BytesTransferred *float64 `json:"bytes_transferred"`
	BytesSkipped     *float64 `json:"bytes_skipped"`
	TotalBytes       *float64 `json:"total_bytes"`
	Throughput       struct {
		CurrentMBps *float64 `json:"current_mbps"`
	} `json:"throughput"`
	Timing struct {
		StartTime  string `json:"start_time"`
		LastUpdate string `json:"last_update"`
	} `json:"timing"`
	VMInfo struct {
		Name       string `json:"name"`
		Path       string `json:"path"`
		CBTEnabled bool   `json:"cbt_enabled"`
	} `json:"vm_info"`
	Errors         []any `json:"errors"`
	LastError      any   `json:"last_error"`
	DiskProgresses []struct {
		DiskID           string   `json:"disk_id"`
		Label            string   `json:"label"`
		BytesTransferred *float64 `json:"bytes_transferred"`
		BytesSkipped     *float64 `json:"bytes_skipped"`
		TotalBytes       *float64 `json:"total_bytes"`
		ThroughputMBps   *float64 `json:"throughput_mbps"`
		Status           string   `json:"status"`
	} `json:"disk_progresses"`
}

func readLegacy(b []byte) (report.Polled, error) {
	var a legacyAnswer
	if err := json.Unmarshal(b, &a); err != nil {
		return report.Polled{}, job.Errorf("read the VMA's answer", job.Corrupt, "", "%w", err)
	}
	n := numbers{}
	out := report.Polled{
		Status: report.StatusOf(a.Status), Phase: short(a.Phase), Operation: a.CurrentOperation,
		SyncType: short(a.SyncType), BytesTransferred: n.bytes(a.BytesTransferred),
		BytesSkipped: value(n.bytes(a.BytesSkipped)), TotalBytes: n.bytes(a.TotalBytes), Percent: n.speed(a.Percentage),
		BytesPerSecond: perSecond(n.speed(a.Throughput.CurrentMBps)), StartedAt: timeOf(a.Timing.StartTime),
		UpdatedAt: timeOf(a.Timing.LastUpdate), Error: errorText(a.LastError, a.Errors),
		VM: report.VM{Name: cut(a.VMInfo.Name), Path: cut(a.VMInfo.Path), CBTEnabled: a.VMInfo.CBTEnabled},
	}
	for _, d := range a.DiskProgresses {
		out.Disks = append(out.Disks, report.PolledDisk{
			ID: job.DiskID(short(d.DiskID)), Label: cut(d.Label), Status: short(d.Status),
			BytesTransferred: n.bytes(d.BytesTransferred), BytesSkipped: value(n.bytes(d.BytesSkipped)),
			TotalBytes: n.bytes(d.TotalBytes), BytesPerSecond: perSecond(n.speed(d.ThroughputMBps)),
		})
	}
	if n.bad {
		return report.Polled{}, job.Errorf("read the VMA's answer", job.Corrupt, "",
			"a number in the answer is negative or too large")
	}
	return out, nil
}

// numbers reads numbers, and notes one that can't be.
type numbers struct{ bad bool }

func (n *numbers) bytes(f *float64) *int64 {
	if f == nil {
		return nil
	}
	if *f < 0 || *f >= math.MaxInt64 {
		n.bad = true
		return nil
	}
	v := int64(*f)
	return &v
}

func (n *numbers) speed(f *float64) *float64 {
	if f != nil && *f < 0 {
		n.bad = true
		return nil
	}
	return f
}

func value(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// perSecond makes bytes per second of MiB per second.
func perSecond(mib *float64) *float64 {
	if mib == nil {
		return nil
	}
	v := *mib * (1 << 20)
	return &v
}

func timeOf(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}
	}
	return t
}

func errorText(last any, all []any) string {
	if text, ok := last.(string); ok && text != "" {
		return text
	}
	for _, one := range slices.Backward(all) {
		if text, ok := one.(string); ok {
			return text
		}
	}
	return ""
}

// short cuts a word from outside to 128 bytes.
func short(s string) string { return strings.ToValidUTF8(s[:min(len(s), 128)], "") }

// cut cuts a name from outside to 1024 bytes.
func cut(s string) string { return strings.ToValidUTF8(s[:min(len(s), 1024)], "") }

// escapeVM writes a VM's name or path as a part of an address.
func escapeVM(vm string) string { return url.PathEscape(strings.TrimPrefix(vm, "/")) }
