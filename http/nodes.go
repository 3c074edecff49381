package http

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

type (
	nodesOutput    struct{ Body []rest.Node }
	watchNodeInput struct {
		Node string `path:"node" maxLength:"64" doc:"Name of the node"`
		ID   string `path:"id" doc:"Job id at the node" example:"job-20250925-134230.513-8034ee"`
	}
)

func (h *Handler) registerNodes(api huma.API) {
	register(api, op("listNodes", http.MethodGet, rest.NodesPath,
		"The other nodes: whose jobs are shown here, or that are linked",
		"Those of an OMA's configuration come first, in its order; then those that are only linked, by name."),
		h.listNodes)
	watch := op("watchJob", http.MethodPost, rest.NodesPath+"/{node}/jobs/{id}/watch",
		"Watch a job of an older VMA",
		"An older VMA has no list of its jobs: whoever starts one there names it here. The job has 30 s to start. "+
			"To name it again is no error. 409 for a node that tells of its jobs by itself.")
	watch.DefaultStatus = http.StatusAccepted
	register(api, watch, h.watchJob)
}

func (h *Handler) listNodes(ctx context.Context, _ *struct{}) (*nodesOutput, error) {
	out := &nodesOutput{Body: []rest.Node{}}
	if h.nodes != nil {
		out.Body = append(out.Body, h.nodes.List(ctx)...)
	}
	return out, nil
}

func (h *Handler) watchJob(ctx context.Context, in *watchNodeInput) (*jobOutput, error) {
	id, err := parseID(in.ID)
	if err != nil {
		return nil, err
	}
	if h.nodes == nil {
		return nil, job.Errorf("find node", job.NotFound, "Ask an OMA", "this daemon watches no nodes")
	}
	if err := h.nodes.Watch(ctx, in.Node, id); err != nil {
		return nil, err
	}
	r, err := h.awaited(ctx, id)
	if err != nil {
		return nil, jobProblem(err)
	}
	return &jobOutput{Status: http.StatusAccepted, Location: jobPath(id), ETag: etag(r), Body: r}, nil
}
