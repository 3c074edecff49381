package http

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/report"
)

type (
	// WindowParams say how far back, and in which steps. It is exported because huma looks into exported types only.
	WindowParams struct {
		Window string `query:"window" default:"15m" maxLength:"20" doc:"How far back, as in 90s or 4h; at most 168h"`
		Step   string `query:"step" default:"auto" enum:"auto,1s,10s,5m" doc:"auto: the finest that reaches so far"`
	}
	throughputInput struct {
		ID string `path:"id" doc:"Job id" example:"job-20250925-134230.513-8034ee"`
		WindowParams
	}
	throughputOutput struct{ Body rest.Throughput }
	totalOutput      struct{ Body rest.TotalThroughput }
)

func (h *Handler) registerThroughput(api huma.API) {
	const kept = "For a chart. 15 minutes are kept in steps of 1 s, 4 h in steps of 10 s and a week in steps of " +
		"5 min, also over a restart of the daemon. A time without samples has one sample whose speed and load are null."
	register(api, op("getThroughput", http.MethodGet, "/api/v1/jobs/{id}/throughput", "The speed of a job over time",
		kept), h.throughput)
	register(api, op("getTotalThroughput", http.MethodGet, "/api/v1/throughput", "The speed of all jobs over time",
		kept+" Jobs of other tools are not in it."), h.totalThroughput)
}

func (h *Handler) throughput(ctx context.Context, in *throughputInput) (*throughputOutput, error) {
	r, err := h.report(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	window, step, err := in.read()
	if err != nil {
		return nil, err
	}
	s := h.speeds.Job(&r, window, step)
	out := rest.Throughput{
		JobID: r.JobID, StepSeconds: s.Step.Seconds(), WindowSeconds: window.Seconds(),
		Samples: make([]rest.Sample, 0, len(s.Samples)),
	}
	for _, v := range s.Samples {
		out.Samples = append(out.Samples, rest.Sample{
			At: v.At, Round: v.Round, BytesTransferred: v.BytesTransferred, BytesPerSecond: v.BytesPerSecond,
			Load: v.Load,
		})
	}
	return &throughputOutput{out}, nil
}

func (h *Handler) totalThroughput(_ context.Context, in *WindowParams) (*totalOutput, error) {
	window, step, err := in.read()
	if err != nil {
		return nil, err
	}
	s := h.speeds.Total(window, step)
	out := rest.TotalThroughput{
		StepSeconds: s.Step.Seconds(), WindowSeconds: window.Seconds(),
		Samples: make([]rest.TotalSample, 0, len(s.Samples)),
	}
	for _, v := range s.Samples {
		out.Samples = append(out.Samples, rest.TotalSample{
			At: v.At, Jobs: v.Jobs, BytesPerSecond: v.BytesPerSecond, Load: v.Load,
		})
	}
	return &totalOutput{out}, nil
}

// read returns the window and the step of a request; the step is 0 for auto.
func (in *WindowParams) read() (window, step time.Duration, err error) {
	const most = 168 * time.Hour
	window, err = time.ParseDuration(in.Window)
	if err != nil || window <= 0 {
		return 0, 0, rest.NewProblem(rest.CodeParameterInvalid, "the window is not a duration",
			"Write it as in 90s or 15m").At("query.window", "must be a duration above 0")
	}
	if in.Step != "auto" {
		if step, err = time.ParseDuration(in.Step); err != nil {
			return 0, 0, err
		}
	}
	return min(window, most), step, nil
}

// noSpeeds is for a handler that has none.
type noSpeeds struct{}

func (noSpeeds) Job(*report.Report, time.Duration, time.Duration) report.Series {
	return report.Series{}
}
func (noSpeeds) Total(time.Duration, time.Duration) report.Series { return report.Series{} }
