package http

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const bulkAtOnce = 8 // commands that wait for the journal at the same time

type (
	bulkInput  struct{ Body rest.BulkRequest }
	bulkOutput struct{ Body rest.BulkReport }
)

func (h *Handler) registerBulk(api huma.API) {
	register(api, op("commandJobs", http.MethodPost, "/api/v1/jobs/bulk", "Give a command to many jobs",
		"To the jobs of ids, or to those that filter finds. 200 as soon as the request itself is valid: each job has "+
			"its own result, in the order of ids, or the newest job first. One that is refused does not stop "+
			"the others. 422 if the filter finds more than 1000 jobs; nothing is done then."), h.bulk)
}

func (h *Handler) bulk(ctx context.Context, in *bulkInput) (*bulkOutput, error) {
	ids, err := h.chosen(&in.Body)
	if err != nil {
		return nil, err
	}
	command := job.CommandReceived{Verb: in.Body.Verb, Purge: in.Body.Purge, Fresh: in.Body.Fresh}
	out := &bulkOutput{rest.BulkReport{Verb: in.Body.Verb, Results: make([]rest.BulkResult, len(ids))}}
	var wait sync.WaitGroup
	next := make(chan int)
	for range min(bulkAtOnce, len(ids)) {
		wait.Go(func() {
			for i := range next {
				out.Body.Results[i] = h.bulkOne(ctx, ids[i], command)
			}
		})
	}
	for i := range ids {
		next <- i
	}
	close(next)
	wait.Wait()
	for _, r := range out.Body.Results {
		if r.Accepted {
			out.Body.Accepted++
		} else {
			out.Body.Refused++
		}
	}
	return out, nil
}

func (h *Handler) bulkOne(ctx context.Context, text string, command job.CommandReceived) rest.BulkResult {
	id, err := parseID(text)
	instance := "/api/v1/jobs/bulk"
	if err == nil {
		instance = jobPath(id)
		err = h.commands.Command(ctx, id, command)
	}
	if err == nil {
		return rest.BulkResult{JobID: text, Accepted: true}
	}
	p := jobProblem(err)
	p.Instance = instance
	return rest.BulkResult{JobID: text, Problem: p}
}

// chosen are the ids of the jobs that a request is for, each once.
func (h *Handler) chosen(b *rest.BulkRequest) ([]string, error) {
	invalid := func(detail, next, at string) error {
		return rest.NewProblem(string(job.Invalid), detail, next).At(at, detail)
	}
	switch {
	case (len(b.IDs) > 0) == (b.Filter != nil):
		return nil, invalid("either ids or filter must be given", "Name the jobs, or say how to find them", "body")
	case b.Purge && b.Verb != job.Cancel:
		return nil, invalid("purge goes with cancel only", "Leave it out", "body.purge")
	case b.Fresh && b.Verb != job.Retry:
		return nil, invalid("fresh goes with retry only", "Leave it out", "body.fresh")
	}
	if b.Filter == nil {
		ids := []string{}
		for _, id := range b.IDs {
			if !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
		return ids, nil
	}
	f := listInput{VM: b.Filter.VM, Node: b.Filter.Node}
	for _, s := range b.Filter.Status {
		f.Status = append(f.Status, statusParam(s))
	}
	for _, x := range b.Filter.Health {
		f.Health = append(f.Health, healthParam(x))
	}
	if len(f.Status)+len(f.Health) == 0 && f.VM+f.Node == "" {
		return nil, invalid("the filter is empty", "Name at least one status, flag, VM or node", "body.filter")
	}
	ids := []string{}
	for r := range h.reports.Each(false) {
		if f.wants(r) && f.takes(b.Verb, r) {
			ids = append(ids, string(r.JobID))
		}
	}
	if len(ids) > rest.MostBulk {
		return nil, invalid(fmt.Sprintf("the filter finds %d jobs, which is more than %d", len(ids), rest.MostBulk),
			"Narrow it", "body.filter")
	}
	return ids, nil
}

// takes says whether a filter is about a job: one of another tool is found only by a verb that it can take.
func (in *listInput) takes(v job.Verb, r *report.Report) bool {
	return r.Origin != report.External || slices.Contains(r.Allowed, v)
}
