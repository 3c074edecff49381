package report

import (
	"slices"
	"time"

	"github.com/vmferry/vmferry/job"
)

// NodeKind says how an OMA watches a node.
type NodeKind string

// The kinds.
const (
	OurNode    NodeKind = "vmferry" // sends its reports, and takes commands
	LegacyNode NodeKind = "legacy"  // an older VMA: is asked for each job in turn, and takes no commands
)

// Watched says how an OMA knows of a job that another node runs. Its times are those of the OMA's clock.
type Watched struct {
	Kind   NodeKind   `json:"kind"`
	SeenAt *time.Time `json:"seen_at"` // when the node spoke of the job last; null before the first time
	// since when the job is unreachable or lost, as its status says; null while it is seen
	Since  *time.Time `json:"since"`
	Reason string     `json:"reason"` // why; "" while it is seen
	// of the node's own report; "" for a node of kind legacy
	Version string `json:"version"`
}

// Sight is how an OMA sees a job: while its status is "" the job's own report holds.
type Sight struct {
	Status job.Status // "", Unreachable or Lost
	Stale  bool       // nothing was heard for a moment: speeds are of another time
	SeenAt time.Time  // zero before the first time
	Since  time.Time  // of the status; zero for none
	Reason string
}

// At makes the report that an OMA shows of the job of a node: that of the node, and what the OMA sees. A job that has
// ended stays as it ended. now is the time of the report.
func (r Report) At(node string, kind NodeKind, version string, see Sight, now time.Time) Report {
	w := Watched{Kind: kind, SeenAt: stamp(see.SeenAt), Version: version}
	r.Node, r.ObservedAt = node, now
	if kind == LegacyNode {
		r.Allowed = []job.Verb{} // the node takes no command
	}
	if kind == LegacyNode && r.Status.Terminal() || see.Status == job.Lost && !r.Status.Terminal() {
		r.Allowed = []job.Verb{job.Delete} // only here
	}
	if see.Status != "" && !r.Status.Terminal() {
		w.Since, w.Reason = stamp(see.Since), see.Reason
		r.Status = see.Status
		r.Operation = "not seen: " + see.Reason
		if see.Status == job.Lost {
			r.Operation = "lost: " + see.Reason
		}
	}
	if (see.Stale || see.Status != "") && !r.Status.Terminal() {
		r.Health = append(slices.DeleteFunc(slices.Clone(r.Health), func(h Health) bool { return h == Stale }), Stale)
		r.Disks = slices.Clone(r.Disks)
		r.abandon()
	}
	if r.Health == nil {
		r.Health = []Health{}
	}
	r.Watched = &w
	return r
}
