package rest

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// HistoryPath is the address of the history in SQL.
const HistoryPath = "/api/v1/history"

// HistoryRow is one job in the tables of the history, which also hold jobs that were deleted, and rows of the older
// chain. What a row does not say is empty, 0 or null.
type HistoryRow struct {
	JobID           job.ID     `json:"job_id"`
	Node            string     `json:"node" doc:"That runs it; local is this daemon; empty for the older chain"`
	VMName          string     `json:"vm_name"`
	VMPath          string     `json:"vm_path"`
	VMID            string     `json:"vm_id" doc:"Its UUID, or its reference if that is not known"`
	VCenter         string     `json:"vcenter"`
	Datacenter      string     `json:"datacenter"`
	Type            string     `json:"replication_type" doc:"initial or incremental: of the last round"`
	Status          string     `json:"status" doc:"One of a job, or a word of the older chain"`
	StatusSince     *time.Time `json:"status_since" doc:"Since when it is unreachable or lost; null if it is not"`
	StatusReason    string     `json:"status_reason" doc:"Why it is unreachable or lost"`
	Percent         float64    `json:"percent" doc:"Of the whole job"`
	Operation       string     `json:"operation" doc:"What it does, in words"`
	BytesMoved      int64      `json:"bytes_transferred" doc:"Over all rounds"`
	BytesSkipped    int64      `json:"bytes_skipped" doc:"Over all rounds"`
	BytesToTransfer int64      `json:"bytes_to_transfer" doc:"Over all rounds"`
	BytesPerSecond  *int64     `json:"bytes_per_second" doc:"Null for a job that does not move bytes"`
	Error           string     `json:"error"`
	ErrorClass      string     `json:"error_class" doc:"connection, authentication, permission, disk or system"`
	CreatedAt       *time.Time `json:"created_at"`
	StartedAt       *time.Time `json:"started_at"`
	EndedAt         *time.Time `json:"ended_at"`
	UpdatedAt       *time.Time `json:"updated_at" doc:"When the row was written"`
}

// HistoryFilter selects rows of the history; the zero value is all.
type HistoryFilter struct {
	Status []string  // any of these
	Node   string    // local is this daemon
	VM     string    // part of its name or path
	From   time.Time // created then or later
	To     time.Time // created before then
	Limit  int       // 1 to 500
	Cursor string    // of the page before; "" for the first
}

// Query is the filter as the parameters of a request.
func (f HistoryFilter) Query() url.Values {
	q := url.Values{}
	for name, text := range map[string]string{
		"status": strings.Join(f.Status, ","), "node": f.Node, "vm": f.VM, "cursor": f.Cursor,
		"from": timeParameter(f.From), "to": timeParameter(f.To),
	} {
		if text != "" {
			q.Set(name, text)
		}
	}
	if f.Limit > 0 {
		q.Set("limit", strconv.Itoa(f.Limit))
	}
	return q
}

func timeParameter(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// mostHistory is the most rows of one page.
const mostHistory = 500

// History returns the newest rows that the filter selects, at most most; 0 for all of them. Limit and Cursor of the
// filter are set here.
func (c *Client) History(ctx context.Context, f HistoryFilter, most int) ([]HistoryRow, error) {
	all := []HistoryRow{}
	f.Limit, f.Cursor = mostHistory, ""
	if most > 0 {
		f.Limit = min(most, mostHistory)
	}
	for next := HistoryPath + "?" + f.Query().Encode(); next != "" && (most == 0 || len(all) < most); {
		var page []HistoryRow
		link, err := c.page(ctx, next, &page)
		if err != nil {
			return nil, err
		}
		all, next = append(all, page...), link
	}
	if most > 0 && len(all) > most {
		all = all[:most]
	}
	return all, nil
}
