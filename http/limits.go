package http

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/job"
)

const limitsPath = "/api/v1/limits"

// LimitsReport is the body of GET /api/v1/limits.
type LimitsReport struct {
	Limits job.Limits    `json:"limits" doc:"0 is for no limit"`
	Hosts  []job.HostUse `json:"hosts" nullable:"false" doc:"What is in use, of each ESXi host that is read from"`
}

// LimitsPatch is the body of PATCH /api/v1/limits: what is left out stays.
type LimitsPatch struct {
	Jobs            *int  `json:"jobs,omitempty" minimum:"1" maximum:"1000" doc:"Jobs that run at the same time"`
	Disks           *int  `json:"disks,omitempty" minimum:"0" doc:"Disks that are copied at the same time"`
	Bandwidth       *Rate `json:"bandwidth_total,omitempty"`
	HostDisks       *int  `json:"disks_per_host,omitempty" minimum:"0" doc:"Disks that are read from one ESXi host at the same time"`
	HostConnections *int  `json:"connections_per_host,omitempty" minimum:"0" doc:"Over how many connections"`
	HostBytes       *Rate `json:"bytes_in_flight_per_host,omitempty"`
	HostBandwidth   *Rate `json:"bandwidth_per_host,omitempty"`
}

// over is the limits with those of the patch instead.
func (p LimitsPatch) over(l job.Limits) job.Limits {
	set(&l.Jobs, p.Jobs)
	set(&l.Disks, p.Disks)
	set(&l.Bandwidth, (*int64)(p.Bandwidth))
	set(&l.HostDisks, p.HostDisks)
	set(&l.HostConnections, p.HostConnections)
	set(&l.HostBytes, (*int64)(p.HostBytes))
	set(&l.HostBandwidth, (*int64)(p.HostBandwidth))
	return l
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

type (
	limitsInput  struct{ Body LimitsPatch }
	limitsOutput struct{ Body LimitsReport }
)

func (h *Handler) registerLimits(api huma.API) {
	register(api, op("getLimits", http.MethodGet, limitsPath, "The limits of this node", "And what is in use of each ESXi host."),
		func(context.Context, *struct{}) (*limitsOutput, error) { return h.limits(), nil })
	register(api, op("patchLimits", http.MethodPatch, limitsPath, "Change limits of this node",
		"Speed and bytes in flight hold for running copies at once, all others for who comes next. They still hold after a restart."), h.patchLimits)
	register(api, op("resetLimits", http.MethodDelete, limitsPath, "Go back to the limits of the configuration", ""),
		func(ctx context.Context, _ *struct{}) (*limitsOutput, error) {
			return h.changeLimits(ctx, func(job.Limits) *job.Limits { return nil })
		})
}

func (h *Handler) limits() *limitsOutput {
	l, use := h.commands.Limits()
	return &limitsOutput{LimitsReport{l, append([]job.HostUse{}, use...)}}
}

func (h *Handler) patchLimits(ctx context.Context, in *limitsInput) (*limitsOutput, error) {
	return h.changeLimits(ctx, func(now job.Limits) *job.Limits {
		next := in.Body.over(now)
		return &next
	})
}

// changeLimits makes one change after the other, so that two at once do not undo each other, and what is kept for the next
// start is what holds.
func (h *Handler) changeLimits(ctx context.Context, next func(now job.Limits) *job.Limits) (*limitsOutput, error) {
	h.limiting.Lock()
	defer h.limiting.Unlock()
	now, _ := h.commands.Limits()
	if err := h.commands.SetLimits(ctx, next(now)); err != nil {
		return nil, err
	}
	return h.limits(), nil
}
