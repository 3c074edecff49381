package rest

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// NodesPath is the address of the nodes that an OMA watches.
const NodesPath = "/api/v1/nodes"

// Node is a node that an OMA watches.
type Node struct {
	Name    string             `json:"name"`
	Kind    report.NodeKind    `json:"kind" enum:"vmferry,legacy" doc:"legacy is an older VMA: it takes no commands"`
	URL     string             `json:"url"`
	State   string             `json:"state" enum:"unknown,connected,unreachable"`
	Since   time.Time          `json:"since" doc:"Of the state"`
	SeenAt  *time.Time         `json:"seen_at" doc:"When it was heard last; null for never"`
	Reason  string             `json:"reason" doc:"Why it is unreachable; empty if it is not"`
	Version string             `json:"version" doc:"Of its vmferry; empty while that is not known"`
	VCenter *VCenter           `json:"vcenter" doc:"Its vCenter; null while that is not known"`
	Jobs    map[job.Status]int `json:"jobs" doc:"How many of its jobs have each status"`
}

// Nodes returns the nodes that an OMA watches; none for another daemon.
func (c *Client) Nodes(ctx context.Context) (list []Node, err error) {
	_, err = c.do(ctx, http.MethodGet, NodesPath, nil, nil, &list)
	return list, err
}

// WatchJob lets an OMA ask an older VMA for a job, and returns the job's report.
func (c *Client) WatchJob(ctx context.Context, node string, id job.ID) (r report.Report, err error) {
	_, err = c.do(ctx, http.MethodPost, NodesPath+"/"+url.PathEscape(node)+"/jobs/"+url.PathEscape(string(id))+"/watch",
		nil, nil, &r)
	return r, err
}
