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

// Sight is how the OMA saw the job when it made the report.
func (r Report) Sight() Sight {
	var s Sight
	if r.Watched == nil {
		return s
	}
	if r.Watched.SeenAt != nil {
		s.SeenAt = *r.Watched.SeenAt
	}
	if r.Watched.Since != nil && (r.Status == job.Unreachable || r.Status == job.Lost) {
		s.Status, s.Since, s.Reason = r.Status, *r.Watched.Since, r.Watched.Reason
	}
	return s
}

// AsItWas is the report as its node made it, as far as that is known: what the OMA put in its place is not.
func (r Report) AsItWas() Report {
	if r.Status == job.Unreachable || r.Status == job.Lost {
		r.Status, r.Operation = job.Running, ""
		if r.Phase == job.Queued {
			r.Status = job.Pending
		}
	}
	if r.Watched == nil {
		r.Watched = &Watched{Kind: OurNode}
	}
	return r
}

// Unheard is the report of a watched job before this start, until its node is heard again: its speeds are of another
// time, and how it was seen still holds.
func (r Report) Unheard() Report {
	kind, version, see := OurNode, "", r.Sight()
	if r.Watched != nil {
		kind, version = r.Watched.Kind, r.Watched.Version
	}
	see.Stale = true
	return r.At(r.Node, kind, version, see, r.ObservedAt)
}
