package http

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

type systemOutput struct{ Body rest.SystemReport }

func (h *Handler) registerSystem(api huma.API) {
	register(api, op("getSystem", http.MethodGet, "/api/v1/system", "The state of the daemon", ""), h.systemReport)
}

func (h *Handler) systemReport(ctx context.Context, _ *struct{}) (*systemOutput, error) {
	s := h.system.State(ctx)
	return &systemOutput{rest.SystemReport{
		Version: h.version, Role: s.Role, StartedAt: s.StartedAt.UTC(),
		UptimeSeconds: max(0, h.now().Sub(s.StartedAt).Seconds()),
		Ready:         s.Ready, Reason: s.Reason, VCenter: h.source != nil, VCenterState: s.VCenter,
		Streams: h.streams.count(), Sinks: append([]rest.Sink{}, s.Sinks...),
		Webhooks: append([]rest.Webhook{}, s.Webhooks...),
	}}, nil
}

// live serves GET /livez: the daemon answers requests.
func (h *Handler) live(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// ready serves GET /readyz: whether jobs can be accepted. They are while the vCenter is away, and wait for it: that
// makes the status degraded, with 200. So does a sink that takes no reports.
func (h *Handler) ready(w http.ResponseWriter, r *http.Request) {
	s := h.system.State(r.Context())
	out := rest.Readiness{Status: "ok", Reason: s.Reason, Degraded: []string{}}
	if s.VCenter.State.Down() {
		out.Status = "degraded"
		out.Degraded = append(out.Degraded, "vcenter")
	}
	for _, sink := range s.Sinks {
		if !sink.OK {
			out.Status = "degraded"
			out.Degraded = append(out.Degraded, sink.Name)
		}
	}
	if r.URL.Query().Has("verbose") && whoOf(r.Context()).role.May(job.Viewer) {
		out.VCenter, out.Sinks = &s.VCenter, s.Sinks
	}
	status := http.StatusOK
	if !s.Ready {
		out.Status, status = "unavailable", http.StatusServiceUnavailable
	}
	writeJSON(w, status, out)
}

type (
	preflightInput  struct{ Body rest.JobRequest }
	preflightOutput struct{ Body rest.PreflightReport }
)

func (h *Handler) registerPreflight(api huma.API) {
	register(api, op("preflight", http.MethodPost, "/api/v1/preflight", "Check whether a job could run",
		"Changes nothing. The body is that of a job."), h.preflight)
}

func (h *Handler) preflight(ctx context.Context, in *preflightInput) (*preflightOutput, error) {
	spec, err := in.Body.Spec()
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
	out := &preflightOutput{rest.PreflightReport{OK: true, Checks: append([]rest.Check{}, checks...)}}
	for _, c := range checks {
		out.Body.OK = out.Body.OK && c.OK
	}
	return out, nil
}
