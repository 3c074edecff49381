package http

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/report"
)

type listOf[T any] struct {
	ETag string `header:"ETag"`
	Body []T
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
