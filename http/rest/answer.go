package rest

import (
	"encoding/json"
	"time"

	"github.com/vmferry/vmferry/job"
)

// LimitsPath is where the limits of the node are read and changed.
const LimitsPath = "/api/v1/limits"

// LimitsReport is the body of GET /api/v1/limits.
type LimitsReport struct {
	Limits job.Limits    `json:"limits" doc:"0 is for no limit"`
	Hosts  []job.HostUse `json:"hosts" nullable:"false" doc:"What is in use, of each ESXi host that is read from"`
}

// LimitsPatch is the body of PATCH /api/v1/limits: what is left out stays.
type LimitsPatch struct {
	Jobs            *int  `json:"jobs,omitempty" minimum:"1" maximum:"1000" doc:"Jobs that run at the same time"`
	Disks           *int  `json:"disks,omitempty" minimum:"0" doc:"Disks that are copied at the same time"`
	Bandwidth       *Rate `json:"bandwidth_total,omitempty"`
	HostDisks       *int  `json:"disks_per_host,omitempty" minimum:"0" doc:"Disks that are read from one ESXi host at the same time"`
	HostConnections *int  `json:"connections_per_host,omitempty" minimum:"0" doc:"Over how many connections"`
	HostBytes       *Rate `json:"bytes_in_flight_per_host,omitempty"`
	HostBandwidth   *Rate `json:"bandwidth_per_host,omitempty"`
}

// Over is the limits with those of the patch instead.
func (p LimitsPatch) Over(l job.Limits) job.Limits {
	set(&l.Jobs, p.Jobs)
	set(&l.Disks, p.Disks)
	set(&l.Bandwidth, (*int64)(p.Bandwidth))
	set(&l.HostDisks, p.HostDisks)
	set(&l.HostConnections, p.HostConnections)
	set(&l.HostBytes, (*int64)(p.HostBytes))
	set(&l.HostBandwidth, (*int64)(p.HostBandwidth))
	return l
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

// SystemReport is the body of GET /api/v1/system.
type SystemReport struct {
	Version       string    `json:"version" doc:"Of the build"`
	Role          string    `json:"role" doc:"vma, oma or all"`
	StartedAt     time.Time `json:"started_at"`
	UptimeSeconds float64   `json:"uptime_seconds"`
	Ready         bool      `json:"ready" doc:"Jobs can be accepted"`
	Reason        string    `json:"reason" doc:"Why not; empty while ready"`
	VCenter       bool      `json:"vcenter" doc:"A vCenter is configured"`
	Streams       int       `json:"streams" doc:"Event streams that are open"`
	Sinks         []Sink    `json:"sinks" nullable:"false" doc:"Where reports are projected to"`
}

// Readiness is the body of GET /readyz.
type Readiness struct {
	Status   string   `json:"status" enum:"ok,degraded,unavailable" doc:"degraded: jobs run, but something that shows them does not take reports"`
	Reason   string   `json:"reason" doc:"Why jobs can't be accepted; empty if they can"`
	Degraded []string `json:"degraded" nullable:"false" doc:"The sinks that take no reports"`
	Sinks    []Sink   `json:"sinks,omitempty" nullable:"false" doc:"With ?verbose"`
}

// PreflightReport is the body of POST /api/v1/preflight.
type PreflightReport struct {
	OK     bool    `json:"ok" doc:"Every check passed"`
	Checks []Check `json:"checks" nullable:"false"`
}

// Check is one thing that must be right before a job can run.
type Check struct {
	Name    string `json:"name" doc:"What was looked at, such as vm, cbt or target disk-2000"`
	OK      bool   `json:"ok"`
	Message string `json:"message" doc:"What was found"`
	Next    string `json:"next" doc:"What a person can do; empty if nothing must be done"`
}

// Sink is a projection: Redis, a database. A copy never waits for one.
type Sink struct {
	Name       string     `json:"name" doc:"redis, sql"`
	OK         bool       `json:"ok"`
	Message    string     `json:"message" doc:"Why it takes no reports; empty while it does"`
	Since      *time.Time `json:"since" doc:"When that began; null while it takes them"`
	LagSeconds float64    `json:"lag_seconds" doc:"Age of the oldest report that it has not taken yet"`
}

// JournalEntry is one event of a job as the journal keeps it.
type JournalEntry struct {
	Seq  int64           `json:"seq" doc:"From 1 up, without gaps"`
	At   time.Time       `json:"at"`
	Type string          `json:"type" doc:"submitted, snapshot_taken, disk_fell, ..."`
	Data json.RawMessage `json:"data" doc:"What belongs to an event of this type"`
}

// Throughput is how fast a job was lately.
type Throughput struct {
	JobID   job.ID   `json:"job_id"`
	Samples []Sample `json:"samples" nullable:"false" doc:"Oldest first, about one a second while bytes move"`
}

// Sample is how far a job was at one moment, and how fast.
type Sample struct {
	At               time.Time `json:"at"`
	Round            int       `json:"round"`
	BytesTransferred int64     `json:"bytes_transferred"`
	BytesPerSecond   float64   `json:"bytes_per_second"`
}

// ProgressUpdate is what an older copy tool posts. Every field may be missing; unknown ones are ignored.
type ProgressUpdate struct {
	Stage            string   `json:"stage,omitempty"`
	Status           string   `json:"status,omitempty"`
	BytesTransferred *int64   `json:"bytes_transferred,omitempty" minimum:"0"`
	TotalBytes       *int64   `json:"total_bytes,omitempty" minimum:"0"`
	ThroughputBPS    *float64 `json:"throughput_bps,omitempty" minimum:"0" doc:"Bytes per second"`
	Percent          *float64 `json:"percent,omitempty" minimum:"0"`
	DiskID           string   `json:"disk_id,omitempty" doc:"Left out, the update speaks of the whole job"`
	SyncType         string   `json:"sync_type,omitempty" doc:"full, initial or incremental"`
	ErrorMessage     string   `json:"error_message,omitempty"`

	_ struct{} `additionalProperties:"true"`
}
