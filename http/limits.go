package http

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

type (
	limitsInput  struct{ Body rest.LimitsPatch }
	limitsOutput struct{ Body rest.LimitsReport }
)

func (h *Handler) registerLimits(api huma.API) {
	register(api, op("getLimits", http.MethodGet, rest.LimitsPath, "The limits of this node",
		"And what is in use on each ESXi host."),
		func(context.Context, *struct{}) (*limitsOutput, error) { return h.limits(), nil })
	register(api, op("patchLimits", http.MethodPatch, rest.LimitsPath, "Change limits of this node",
		"Speed and bytes in flight hold for running copies at once, all others for the next disk or job. "+
			"They still hold after a restart."), h.patchLimits)
	register(api, op("resetLimits", http.MethodDelete, rest.LimitsPath, "Go back to the limits of the configuration",
		""),
		func(ctx context.Context, _ *struct{}) (*limitsOutput, error) {
			return h.changeLimits(ctx, func(job.Limits) *job.Limits { return nil })
		})
}

func (h *Handler) limits() *limitsOutput {
	l, use := h.commands.Limits()
	return &limitsOutput{rest.LimitsReport{Limits: l, Hosts: append([]job.HostUse{}, use...)}}
}

func (h *Handler) patchLimits(ctx context.Context, in *limitsInput) (*limitsOutput, error) {
	return h.changeLimits(ctx, func(now job.Limits) *job.Limits {
		next := in.Body.Over(now)
		return &next
	})
}

// changeLimits makes one change after another. Two concurrent changes do not undo each other, and the limits stored for
// the next start are those in force.
func (h *Handler) changeLimits(ctx context.Context, next func(now job.Limits) *job.Limits) (*limitsOutput, error) {
	h.limiting.Lock()
	defer h.limiting.Unlock()
	now, _ := h.commands.Limits()
	if err := h.commands.SetLimits(ctx, next(now)); err != nil {
		return nil, err
	}
	return h.limits(), nil
}
