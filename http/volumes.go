package http

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
)

type (
	volumesOutput struct{ Body []rest.Volume }
	volumeInput   struct {
		ID string `path:"id" maxLength:"128" doc:"Volume id, as GET /api/v1/volumes has it"`
	}
)

func (h *Handler) registerVolumes(api huma.API) {
	register(api, op("listVolumes", http.MethodGet, rest.VolumesPath, "The targets and whose they are",
		"Those that were written, and those that a job which has not ended has claimed; the oldest claim first. "+
			"A job gets no volume of another VM or disk."), h.listVolumes)
	release := op("releaseVolume", http.MethodPost, rest.VolumesPath+"/{id}/release", "Give up a volume",
		"Any job may have it after that, and copies it in full. The volume itself is not touched. "+
			"409 while a job that has not ended uses it.")
	release.DefaultStatus = http.StatusNoContent
	register(api, release, h.releaseVolume)
}

func (h *Handler) listVolumes(ctx context.Context, _ *struct{}) (*volumesOutput, error) {
	rows, err := h.volumes.All(ctx)
	if err != nil {
		return nil, err
	}
	out := &volumesOutput{Body: make([]rest.Volume, 0, len(rows))}
	for _, r := range rows {
		out.Body = append(out.Body, rest.NewVolume(r))
	}
	return out, nil
}

func (h *Handler) releaseVolume(ctx context.Context, in *volumeInput) (*struct{}, error) {
	return &struct{}{}, h.volumes.Free(ctx, in.ID)
}
