package http

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// This file has the routes that older copy tools, pollers and dashboards use. Their words and units are frozen.

// ProgressAccepted is the answer to an update.
type ProgressAccepted struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

// LegacyProgress is a job in the words of the older service.
type LegacyProgress struct {
	JobID            job.ID           `json:"job_id"`
	Status           string           `json:"status" enum:"queued,running,completed,failed,cancelled,paused"`
	SyncType         string           `json:"sync_type"`
	Phase            job.Phase        `json:"phase"`
	Percentage       float64          `json:"percentage" doc:"Of this round's bytes; 100 only for a completed job"`
	CurrentOperation string           `json:"current_operation"`
	BytesTransferred int64            `json:"bytes_transferred" doc:"Acknowledged by the targets"`
	BytesSkipped     int64            `json:"bytes_skipped" doc:"Zeros that are not sent; they count for total_bytes"`
	TotalBytes       int64            `json:"total_bytes" doc:"What this round must handle; 0 until that is known"`
	Throughput       LegacyThroughput `json:"throughput"`
	Timing           LegacyTiming     `json:"timing"`
	VMInfo           LegacyVM         `json:"vm_info"`
	Phases           []LegacyPhase    `json:"phases" nullable:"false"`
	Errors           []string         `json:"errors" nullable:"false"`
	LastError        *string          `json:"last_error"`
	DiskProgresses   []LegacyDisk     `json:"disk_progresses" nullable:"false"`
	Health           []report.Health  `json:"health" nullable:"false"`
	Version          string           `json:"version" doc:"<epoch>-<seq>, grows with each report"`
}

// LegacyThroughput is in MiB per second, which the older service calls mbps.
type LegacyThroughput struct {
	CurrentMBps float64   `json:"current_mbps"`
	AverageMBps float64   `json:"average_mbps"`
	PeakMBps    float64   `json:"peak_mbps"`
	LastUpdate  time.Time `json:"last_update"`
}

// LegacyTiming has the start and the duration of a job and of its phase.
type LegacyTiming struct {
	StartTime      time.Time `json:"start_time"`
	LastUpdate     time.Time `json:"last_update"`
	ElapsedMS      int64     `json:"elapsed_ms"`
	PhaseStart     time.Time `json:"phase_start"`
	PhaseElapsedMS int64     `json:"phase_elapsed_ms"`
	ETASeconds     *int64    `json:"eta_seconds"`
}

// LegacyVM names the VM.
type LegacyVM struct {
	Name          string  `json:"name"`
	Path          string  `json:"path"`
	DiskSizeGB    float64 `json:"disk_size_gb"`
	DiskSizeBytes int64   `json:"disk_size_bytes"`
	CBTEnabled    bool    `json:"cbt_enabled"`
}

// LegacyPhase is one phase, from its start to its end.
type LegacyPhase struct {
	Name       job.Phase  `json:"name"`
	Status     string     `json:"status" enum:"completed,running,failed,cancelled,paused"`
	StartTime  time.Time  `json:"start_time"`
	EndTime    *time.Time `json:"end_time"`
	DurationMS int64      `json:"duration_ms"`
}

// LegacyDisk is one disk.
type LegacyDisk struct {
	DiskID           job.DiskID    `json:"disk_id"`
	Label            string        `json:"label"`
	BytesTransferred int64         `json:"bytes_transferred"`
	BytesSkipped     int64         `json:"bytes_skipped"`
	TotalBytes       int64         `json:"total_bytes"`
	Percent          float64       `json:"percent"`
	ThroughputMBps   float64       `json:"throughput_mbps"`
	Status           job.DiskPhase `json:"status"`
}

// LegacyNotFound is the answer for an unknown job.
type LegacyNotFound struct {
	Error string `json:"error"`
	JobID string `json:"job_id"`
}

// CBTStatus is the answer of GET /api/v1/vms/{vm_path}/cbt-status.
type CBTStatus struct {
	Enabled    bool   `json:"enabled"`
	VMName     string `json:"vm_name"`
	PowerState string `json:"power_state"`
	VMPath     string `json:"vm_path"`
}

const (
	mib = 1 << 20
	gib = 1 << 30
	// A place for an external job becomes free when an operator deletes one, or after hours of silence.
	externalRetrySeconds = "60"
)

// update serves POST /api/v1/progress/{job_id}/update. A bad update is answered with 400 and the reason, one for a job
// of this node with 409, one of a new job that is too many with 429; all of these change nothing.
func (h *Handler) update(w http.ResponseWriter, r *http.Request) {
	id, err := pathID(r)
	if err != nil {
		writeProblem(w, r, problemOf(err))
		return
	}
	b, err := readBody(w, r)
	if err != nil {
		writeProblem(w, r, problemOf(err))
		return
	}
	u, err := DecodeUpdate(b)
	if err != nil {
		writeProblem(w, r, rest.NewProblem(rest.CodeBodySyntax, err.Error(),
			"Send one JSON object; numbers are 0 or more"))
		return
	}
	if err := h.commands.ExternalUpdate(r.Context(), id, u); err != nil {
		p := problemOf(err)
		switch {
		case p.Code == string(job.Invalid):
			p = rest.NewProblem(rest.CodeBodySyntax, p.Detail, p.Next)
		case errors.Is(err, report.ErrTooManyExternal):
			p = rest.NewProblem(rest.CodeTooManyExternal, p.Detail, p.Next)
			p.Header = http.Header{"Retry-After": {externalRetrySeconds}}
		}
		h.fail(w, r, p)
		return
	}
	writeJSON(w, http.StatusOK, ProgressAccepted{"success", "Progress updated successfully"})
}

// DecodeUpdate reads an update: one JSON object, names in any case, unknown fields ignored. Counts are whole numbers in
// any form, as in 5, 5.0 or 1.5e12. Errors are of kind Invalid, also for a fraction.
func DecodeUpdate(b []byte) (report.Update, error) {
	const op = "read progress update"
	var u *postedUpdate
	if err := json.Unmarshal(b, &u); err != nil {
		return report.Update{}, job.Errorf(op, job.Invalid, "", "%w", updateError(err))
	}
	if u == nil {
		return report.Update{}, job.Errorf(op, job.Invalid, "", "the body is null")
	}
	out := report.Update{
		Stage: u.Stage, Status: u.Status,
		BytesTransferred: u.BytesTransferred.count(), TotalBytes: u.TotalBytes.count(),
		ThroughputBPS: u.ThroughputBPS, Percent: u.Percent, DiskID: u.DiskID, SyncType: u.SyncType,
		ErrorMessage: u.ErrorMessage,
	}
	return out, out.Check()
}

// updateError writes an error of encoding/json without Go's words.
func updateError(err error) error {
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if kind.Field == "" {
			return fmt.Errorf("the body is a JSON %s, not an object", kind.Value)
		}
		return fmt.Errorf("%s can't be %s", kind.Field, kind.Value)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "unexpected end") {
		return errors.New("the JSON value ends too early")
	}
	return err
}

// progress serves GET /api/v1/progress/{job_id}.
func (h *Handler) progress(w http.ResponseWriter, r *http.Request) {
	id, err := pathID(r)
	if err != nil {
		writeProblem(w, r, problemOf(err))
		return
	}
	rep, err := h.reports.Report(r.Context(), id)
	if job.KindOf(err) == job.NotFound {
		writeJSON(w, http.StatusNotFound, LegacyNotFound{"job not found", string(id)})
		return
	}
	if err != nil {
		h.fail(w, r, problemOf(err))
		return
	}
	w.Header().Set("ETag", etag(rep))
	if matches(r.Header.Get("If-None-Match"), etag(rep)) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeJSON(w, http.StatusOK, legacy(rep, h.now()))
}

// legacy writes a report in the words of the older service.
func legacy(r report.Report, now time.Time) LegacyProgress {
	out := LegacyProgress{
		JobID: r.JobID, Status: legacyStatus(r.Status), SyncType: string(r.Mode), Phase: r.Phase,
		Percentage: legacyPercent(r.Percent, r.Status == job.StatusCompleted), CurrentOperation: r.Operation,
		BytesTransferred: r.BytesTransferred, BytesSkipped: r.BytesSkipped, TotalBytes: orZero(r.BytesToTransfer),
		Throughput: LegacyThroughput{
			report.SpeedOr0(r.BytesPerSecond) / mib, report.SpeedOr0(r.BytesPerSecondAverage) / mib,
			r.BytesPerSecondPeak / mib,
			r.ObservedAt.UTC(),
		},
		Timing: legacyTiming(r, now), Version: r.Version().String(), Errors: []string{},
		Health: append([]report.Health{}, r.Health...),
		VMInfo: LegacyVM{
			Name: r.VM.Name, Path: r.VM.Path, CBTEnabled: r.VM.CBTEnabled,
			DiskSizeBytes: orZero(r.BytesCapacity), DiskSizeGB: float64(orZero(r.BytesCapacity)) / gib,
		},
		Phases: make([]LegacyPhase, 0, len(r.Phases)), DiskProgresses: make([]LegacyDisk, 0, len(r.Disks)),
	}
	for _, p := range r.Phases {
		out.Phases = append(out.Phases, legacyPhase(p, out.Status, now))
	}
	for _, d := range r.Disks {
		out.DiskProgresses = append(out.DiskProgresses, LegacyDisk{
			DiskID: d.DiskID, Label: d.Label, BytesTransferred: d.BytesTransferred, BytesSkipped: d.BytesSkipped,
			TotalBytes: orZero(d.BytesToTransfer),
			Percent: legacyPercent(d.Percent, d.Status == job.DiskDone || d.Status == job.DiskCopied ||
				d.Status == job.DiskVerifying),
			ThroughputMBps: report.SpeedOr0(d.BytesPerSecond) / mib, Status: d.Status,
		})
		if d.LastCause != nil {
			out.Errors = append(out.Errors, string(d.DiskID)+": "+d.LastCause.Message)
		}
	}
	if r.Error != nil {
		out.Errors = append(out.Errors, r.Error.Message)
		out.LastError = &r.Error.Message
	}
	return out
}

func legacyTiming(r report.Report, now time.Time) LegacyTiming {
	t := LegacyTiming{StartTime: r.CreatedAt.UTC(), LastUpdate: r.ObservedAt.UTC(), ETASeconds: r.ETASeconds}
	if r.StartedAt != nil {
		t.StartTime = r.StartedAt.UTC()
	}
	end := now
	if r.EndedAt != nil {
		end = *r.EndedAt
	}
	t.ElapsedMS = milliseconds(t.StartTime, end)
	t.PhaseStart = t.StartTime
	if n := len(r.Phases); n > 0 {
		t.PhaseStart = r.Phases[n-1].StartedAt.UTC()
	}
	t.PhaseElapsedMS = milliseconds(t.PhaseStart, end)
	return t
}

func legacyPhase(p report.Phase, status string, now time.Time) LegacyPhase {
	out := LegacyPhase{Name: p.Name, Status: "completed", StartTime: p.StartedAt.UTC(), EndTime: p.EndedAt}
	end := now
	if p.EndedAt != nil {
		end = *p.EndedAt
	}
	if p.EndedAt == nil || p.Name.Terminal() {
		out.Status = status
	}
	if out.Status == "queued" {
		out.Status = "running" // the phase runs; the job waits
	}
	out.DurationMS = milliseconds(p.StartedAt, end)
	return out
}

func milliseconds(from, to time.Time) int64 { return max(0, to.Sub(from).Milliseconds()) }

// legacyStatus writes a status in the six words that older readers know.
func legacyStatus(s job.Status) string {
	switch s {
	case job.Pending:
		return "queued"
	case job.Paused:
		return "paused"
	case job.StatusCompleted:
		return "completed"
	case job.StatusFailed:
		return "failed"
	case job.StatusCancelled:
		return "cancelled"
	case job.Running, job.WaitingCutover, job.Unreachable, job.Lost:
		return "running"
	}
	return "running"
}

// legacyPercent is 100 only where it is certain that nothing is missing: older readers read 100 as the end.
func legacyPercent(p *float64, certain bool) float64 {
	const nearly = 99.99
	switch {
	case certain:
		return 100
	case p == nil:
		return 0
	default:
		return min(nearly, *p)
	}
}

func orZero(n *int64) int64 {
	if n == nil {
		return 0
	}
	return *n
}

// cbtStatus serves GET /api/v1/vms/{vm_path}/cbt-status, where the path may hold slashes, escaped or not.
func (h *Handler) cbtStatus(w http.ResponseWriter, r *http.Request) {
	text, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.EscapedPath(), "/api/v1/vms/"), "/cbt-status")
	if !ok || text == "" {
		writeProblem(w, r, rest.NewProblem(rest.CodeRouteNotFound, "there is nothing at "+instanceOf(r),
			"Ask for /api/v1/vms/{vm_path}/cbt-status"))
		return
	}
	vm, err := url.PathUnescape(text)
	if err != nil || len(vm) > 1024 || strings.ContainsFunc(vm, func(r rune) bool { return r < ' ' }) {
		writeProblem(w, r, rest.NewProblem(rest.CodeParameterInvalid, "this is not the name or path of a VM",
			"").At("path.vm_path", "is not a name"))
		return
	}
	if strings.Contains(vm, "/") && !strings.HasPrefix(vm, "/") {
		vm = "/" + vm
	}
	if h.source == nil {
		writeProblem(w, r, noVCenter())
		return
	}
	found, err := h.source.Inspect(r.Context(), vm)
	if err != nil {
		h.fail(w, r, problemOf(err))
		return
	}
	writeJSON(w, http.StatusOK, CBTStatus{found.CBTEnabled, found.Name, found.PowerState, found.Path})
}

func noVCenter() *rest.Problem {
	return rest.NewProblem(rest.CodeNoVCenter, "no vCenter is configured for this daemon",
		"Set vcenter.url, vcenter.user and vcenter.password_file in the configuration")
}

// pathID reads the job id in the path of a route that does not use huma.
func pathID(r *http.Request) (job.ID, error) {
	text, err := url.PathUnescape(chi.URLParam(r, "job_id"))
	if err != nil {
		return "", rest.NewProblem(rest.CodeIDInvalid, "the job id in the path is not escaped correctly", "")
	}
	return parseID(text)
}

// fail answers with a problem, and logs it if its status is 500.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, p *rest.Problem) {
	if p.Status == http.StatusInternalServerError {
		h.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", instanceOf(r), "code", p.Code,
			"err", p.Detail)
	}
	writeProblem(w, r, p)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"the answer could not be written"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // the client has gone if this fails
}
