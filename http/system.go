package http

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// SystemReport is the body of GET /api/v1/system.
type SystemReport struct {
	Version       string    `json:"version" doc:"Of the build"`
	Role          string    `json:"role" doc:"vma, oma or all"`
	StartedAt     time.Time `json:"started_at"`
	UptimeSeconds float64   `json:"uptime_seconds"`
	Ready         bool      `json:"ready" doc:"Jobs can be accepted"`
	Reason        string    `json:"reason" doc:"Why not; empty while ready"`
	VCenter       bool      `json:"vcenter" doc:"A vCenter is configured"`
	Streams       int       `json:"streams" doc:"Event streams that are open"`
	Sinks         []Sink    `json:"sinks" nullable:"false" doc:"Where reports are projected to"`
}

// Readiness is the body of GET /readyz.
type Readiness struct {
	Status   string   `json:"status" enum:"ok,degraded,unavailable" doc:"degraded: jobs run, but something that shows them does not take reports"`
	Reason   string   `json:"reason" doc:"Why jobs can't be accepted; empty if they can"`
	Degraded []string `json:"degraded" nullable:"false" doc:"The sinks that take no reports"`
	Sinks    []Sink   `json:"sinks,omitempty" nullable:"false" doc:"With ?verbose"`
}

type systemOutput struct{ Body SystemReport }

func (h *Handler) registerSystem(api huma.API) {
	register(api, op("getSystem", http.MethodGet, "/api/v1/system", "How the daemon is", ""), h.systemReport)
}

func (h *Handler) systemReport(ctx context.Context, _ *struct{}) (*systemOutput, error) {
	s := h.system.State(ctx)
	return &systemOutput{SystemReport{
		Version: h.version, Role: s.Role, StartedAt: s.StartedAt.UTC(), UptimeSeconds: max(0, h.now().Sub(s.StartedAt).Seconds()),
		Ready: s.Ready, Reason: s.Reason, VCenter: h.source != nil, Streams: h.streams.count(), Sinks: append([]Sink{}, s.Sinks...),
	}}, nil
}

// live says that requests are answered at all.
func (h *Handler) live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// ready says whether jobs can be accepted. A sink that takes no reports is told, but stops nothing.
func (h *Handler) ready(w http.ResponseWriter, r *http.Request) {
	s := h.system.State(r.Context())
	out := Readiness{Status: "ok", Reason: s.Reason, Degraded: []string{}}
	for _, sink := range s.Sinks {
		if !sink.OK {
			out.Status = "degraded"
			out.Degraded = append(out.Degraded, sink.Name)
		}
	}
	if r.URL.Query().Has("verbose") {
		out.Sinks = s.Sinks
	}
	status := http.StatusOK
	if !s.Ready {
		out.Status, status = "unavailable", http.StatusServiceUnavailable
	}
	writeJSON(w, status, out)
}

// PreflightReport is the body of POST /api/v1/preflight.
type PreflightReport struct {
	OK     bool    `json:"ok" doc:"Every check passed"`
	Checks []Check `json:"checks" nullable:"false"`
}

type (
	preflightInput  struct{ Body JobRequest }
	preflightOutput struct{ Body PreflightReport }
)

func (h *Handler) registerPreflight(api huma.API) {
	register(api, op("preflight", http.MethodPost, "/api/v1/preflight", "Look whether a job could run", "Changes nothing. The body is that of a job."), h.preflight)
}

func (h *Handler) preflight(ctx context.Context, in *preflightInput) (*preflightOutput, error) {
	spec, err := in.Body.spec()
	if err != nil {
		return nil, err
	}
	if h.source == nil {
		return nil, noVCenter()
	}
	checks, err := h.source.Preflight(ctx, spec)
	if err != nil {
		return nil, err
	}
	out := &preflightOutput{PreflightReport{OK: true, Checks: append([]Check{}, checks...)}}
	for _, c := range checks {
		out.Body.OK = out.Body.OK && c.OK
	}
	return out, nil
}
