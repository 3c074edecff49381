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
	URL     string             `json:"url" doc:"Of its REST service; empty for a node that is only linked"`
	State   string             `json:"state" enum:"unknown,connected,unreachable"`
	Since   time.Time          `json:"since" doc:"Of the state"`
	SeenAt  *time.Time         `json:"seen_at" doc:"When it was heard last; null for never"`
	Reason  string             `json:"reason" doc:"Why it is unreachable; empty if it is not"`
	Version string             `json:"version" doc:"Of its vmferry; empty while that is not known"`
	VCenter *VCenter           `json:"vcenter" doc:"Its vCenter; null while that is not known"`
	Jobs    map[job.Status]int `json:"jobs" doc:"How many of its jobs have each status"`
	Link    *Link              `json:"link" doc:"The link with it; null if there is to be none"`
}

// Link is how the link with a node is: the session that carries actors' messages in both directions.
type Link struct {
	State              string           `json:"state" enum:"up,down"`
	Since              time.Time        `json:"since" doc:"Of the state"`
	Reason             string           `json:"reason" doc:"Why it is down; empty if it is not"`
	Role               string           `json:"role" enum:",vma,oma" doc:"Of the node; empty before it was seen"`
	Address            string           `json:"address" doc:"Of the node; where it is dialled, before it was seen"`
	Dialled            bool             `json:"dialled" doc:"By this daemon"`
	RoundTripMS        *float64         `json:"round_trip_ms" doc:"Of the last ping; null while that is not known"`
	FrameVersion       int              `json:"frame_version" doc:"That both sides speak; 0 before the node was seen"`
	CertificateExpires *time.Time       `json:"certificate_expires_at" doc:"Of the node; null before it was seen"`
	Waiting            int              `json:"waiting" doc:"Messages that the node has not acknowledged"`
	Refused            map[string]int64 `json:"refused" doc:"What the node sent and was refused, by cause"`
	Events             []LinkEvent      `json:"events" doc:"The last changes, the newest last"`
}

// LinkEvent is a change of a link.
type LinkEvent struct {
	At     time.Time `json:"at"`
	State  string    `json:"state" enum:"up,down"`
	Reason string    `json:"reason" doc:"Why it went down; empty for up"`
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
