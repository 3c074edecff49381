package http

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/report"
)

type listOf[T any] struct {
	ETag string `header:"ETag"`
	Body []T
}

type throughputInput struct {
	ID     string `path:"id" doc:"Job id" example:"job-20250925-134230.513-8034ee"`
	Window string `query:"window" default:"15m" maxLength:"20" doc:"How far back, as in 90s; 15m of copying are kept"`
}

func (h *Handler) registerDetails(api huma.API) {
	register(api, op("listDisks", http.MethodGet, "/api/v1/jobs/{id}/disks", "The disks of a job",
		"As they are in the running or the last round."),
		part(h, func(r report.Report) []report.Disk { return r.Disks }))
	register(api, op("listPhases", http.MethodGet, "/api/v1/jobs/{id}/phases", "The phases of a job so far",
		"Oldest first."),
		part(h, func(r report.Report) []report.Phase { return r.Phases }))
	register(api, op("listRounds", http.MethodGet, "/api/v1/jobs/{id}/rounds", "The rounds of a job so far",
		"Oldest first."),
		part(h, func(r report.Report) []report.Round { return r.Rounds }))
	register(api, op("listEvents", http.MethodGet, "/api/v1/jobs/{id}/events", "The journal of a job",
		"All its events, oldest first, or those that follow one, or those with a text in them."), h.journal)
	register(api, op("getThroughput", http.MethodGet, "/api/v1/jobs/{id}/throughput", "The speed of a job lately",
		"For a chart; kept in memory only, so it is empty after a restart of the daemon."), h.throughput)
}

// part serves one list of the report.
func part[T any](h *Handler, of func(report.Report) []T) func(context.Context, *getInput) (*listOf[T], error) {
	return func(ctx context.Context, in *getInput) (*listOf[T], error) {
		r, err := h.report(ctx, in.ID)
		if err != nil {
			return nil, err
		}
		if tag := etag(r); matches(in.IfNoneMatch, tag) {
			return nil, unmodified(tag)
		}
		out := &listOf[T]{ETag: etag(r), Body: of(r)}
		if out.Body == nil {
			out.Body = []T{}
		}
		return out, nil
	}
}

type throughputOutput struct{ Body rest.Throughput }

func (h *Handler) throughput(ctx context.Context, in *throughputInput) (*throughputOutput, error) {
	r, err := h.report(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	window, err := time.ParseDuration(in.Window)
	if err != nil || window <= 0 {
		return nil, rest.NewProblem(rest.CodeParameterInvalid, "the window is not a duration",
			"Write it as in 90s or 15m").At("query.window", "must be a duration above 0")
	}
	return &throughputOutput{rest.Throughput{JobID: r.JobID, Samples: h.samples.of(r.JobID, h.now().Add(-window))}}, nil
}
