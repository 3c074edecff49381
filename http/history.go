package http

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/vmferry/vmferry/http/rest"
)

type (
	historyInput struct {
		Status []string  `query:"status" maxItems:"20" doc:"Only rows of one of these statuses" example:"failed"`
		VM     string    `query:"vm" maxLength:"1024" doc:"Part of the VM's name or path"`
		Node   string    `query:"node" maxLength:"64" doc:"Only jobs of this node; local is this daemon"`
		From   time.Time `query:"from" doc:"Only jobs that were created then or later"`
		To     time.Time `query:"to" doc:"Only jobs that were created before then"`
		Limit  int       `query:"limit" default:"50" minimum:"1" maximum:"500"`
		Cursor string    `query:"cursor" maxLength:"1024" doc:"From the Link header of the previous page"`
	}
	historyOutput struct {
		Link string `header:"Link" doc:"rel=next leads to the next page; it is missing on the last one"`
		Body []rest.HistoryRow
	}
)

func (h *Handler) registerHistory(api huma.API) {
	register(api, op("listHistory", http.MethodGet, rest.HistoryPath, "The history in SQL",
		"The jobs in the tables that the history is kept in, the newest first: also those that were deleted, and "+
			"those of the older chain. 404 with the code history_not_kept where there are no such tables: GET "+
			"/api/v1/jobs?ended=true then has the jobs of this daemon. 503 while the database is away."), h.listHistory)
}

func (h *Handler) listHistory(ctx context.Context, in *historyInput) (*historyOutput, error) {
	if h.history == nil {
		return nil, rest.NewProblem(rest.CodeNoHistory, "this daemon keeps no history in SQL",
			"Use GET /api/v1/jobs?ended=true, or set sql.driver")
	}
	f := rest.HistoryFilter{
		Status: in.Status, Node: in.Node, VM: in.VM, From: in.From, To: in.To, Limit: in.Limit, Cursor: in.Cursor,
	}
	rows, next, err := h.history.Page(ctx, f)
	if err != nil {
		return nil, err
	}
	out := &historyOutput{Body: append([]rest.HistoryRow{}, rows...)}
	if next != "" {
		f.Cursor = next
		out.Link = "<" + rest.HistoryPath + "?" + f.Query().Encode() + `>; rel="next"`
	}
	return out, nil
}
