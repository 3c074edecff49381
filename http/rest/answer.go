package rest

import (
	"encoding/json"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// LimitsPath is the address of the limits of the node.
const LimitsPath = "/api/v1/limits"

// LimitsReport is the body of GET /api/v1/limits.
type LimitsReport struct {
	Limits job.Limits    `json:"limits" doc:"0 is no limit"`
	Hosts  []job.HostUse `json:"hosts" nullable:"false" doc:"What is in use on each ESXi host that is read from"`
}

// LimitsPatch is the body of PATCH /api/v1/limits. A limit that is left out stays as it is.
type LimitsPatch struct {
	Jobs            *int  `json:"jobs,omitempty" minimum:"1" maximum:"1000" doc:"Jobs that run at the same time"`
	Disks           *int  `json:"disks,omitempty" minimum:"0" doc:"Disks that are copied at the same time"`
	Bandwidth       *Rate `json:"bandwidth_total,omitempty"`
	HostDisks       *int  `json:"disks_per_host,omitempty" minimum:"0" doc:"Disks read from one ESXi host at once"`
	HostConnections *int  `json:"connections_per_host,omitempty" minimum:"0" doc:"Connections for these"`
	HostBytes       *Rate `json:"bytes_in_flight_per_host,omitempty"`
	HostBandwidth   *Rate `json:"bandwidth_per_host,omitempty"`
}

// Over returns l with the limits of the patch in it.
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

// VolumesPath is the address of the volumes.
const VolumesPath = "/api/v1/volumes"

// Volume is one entry of the body of GET /api/v1/volumes: a target, and whose it is.
type Volume struct {
	ID         string     `json:"id" doc:"A volume that gets another owner gets another id"`
	Target     string     `json:"target" doc:"Where it was last: a path or URI"`
	VMName     string     `json:"vm_name" doc:"Name or path of the VM as it was last, or as the request has it"`
	VMUUID     string     `json:"vm_uuid" doc:"Instance UUID; empty until a job has found the VM"`
	VCenter    string     `json:"vcenter" doc:"Instance UUID of the vCenter; empty if it is not known"`
	Disk       job.DiskID `json:"disk"`
	Job        job.ID     `json:"job" doc:"The newest job that has claimed it"`
	InUse      bool       `json:"in_use" doc:"That job has not ended"`
	MadeByJob  job.ID     `json:"made_by_job" doc:"The job that made it; empty if it was there before"`
	Generation int64      `json:"generation" doc:"Grows with each round that begins to write; 0 before the first"`
	Size       int64      `json:"size" doc:"Bytes of the disk"`
	ClaimedAt  time.Time  `json:"claimed_at" doc:"When the job claimed it"`
	AdoptedAt  *time.Time `json:"adopted_at" doc:"When it was taken over from others; null for never"`
	ReleasedAt *time.Time `json:"released_at" doc:"When it was released, so that any job may have it; null for not"`
	Stamped    bool       `json:"stamped" doc:"A write of others since the last round would show; false for an export"`
}

// NewVolume writes a row of the ledger as an answer.
func NewVolume(r job.VolumeRecord) Volume {
	return Volume{
		ID: r.ID, Target: r.Target, VMName: r.Owner.Name, VMUUID: r.Owner.VM, VCenter: r.Owner.VCenter,
		Disk: r.Owner.Disk, Job: r.Job, InUse: r.JobActive, MadeByJob: r.MadeBy, Generation: r.Generation,
		Size: r.Size, ClaimedAt: r.ClaimedAt.UTC(), AdoptedAt: moment(r.AdoptedAt), ReleasedAt: moment(r.ReleasedAt),
		Stamped: r.Stamp != "" && !r.Writing,
	}
}

// moment is nil for the zero time.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// SystemReport is the body of GET /api/v1/system.
type SystemReport struct {
	Version       string    `json:"version" doc:"Of the build"`
	Role          string    `json:"role" doc:"vma, oma or all"`
	StartedAt     time.Time `json:"started_at"`
	UptimeSeconds float64   `json:"uptime_seconds"`
	Ready         bool      `json:"ready" doc:"Jobs can be accepted"`
	Reason        string    `json:"reason" doc:"Why the daemon is not ready; empty while it is"`
	VCenter       bool      `json:"vcenter" doc:"A vCenter is configured"`
	VCenterState  VCenter   `json:"vcenter_state" doc:"How the vCenter is now"`
	Streams       int       `json:"streams" doc:"Event streams that are open"`
	Sinks         []Sink    `json:"sinks" nullable:"false" doc:"Where reports are projected to"`
	Webhooks      []Webhook `json:"webhooks" nullable:"false" doc:"Programs that are told what happens to jobs"`
}

// Webhook is a program that is told what happens to jobs, as the configuration names it.
type Webhook struct {
	URL         string     `json:"url" doc:"Without a query"`
	Events      []string   `json:"events" nullable:"false" doc:"failed, waiting_cutover, completed"`
	OK          bool       `json:"ok" doc:"It has taken the newest delivery that was tried"`
	Message     string     `json:"message" doc:"Why it takes none; empty while it does"`
	Next        string     `json:"next" doc:"What a person can do; empty if nothing must be done"`
	Pending     int        `json:"pending" doc:"Deliveries that it has not taken yet"`
	Sent        int64      `json:"sent" doc:"Deliveries since the start of the daemon"`
	FailedTries int64      `json:"failed_tries" doc:"Since the start of the daemon"`
	Dropped     int64      `json:"dropped" doc:"Deliveries that were given up since the start of the daemon"`
	SentAt      *time.Time `json:"sent_at" doc:"Of the newest delivery; null for none since the start of the daemon"`
}

// Readiness is the body of GET /readyz.
type Readiness struct {
	Status   string   `json:"status" enum:"ok,degraded,unavailable" doc:"degraded: jobs are accepted, a part is away"`
	Reason   string   `json:"reason" doc:"Why jobs cannot be accepted, or must wait; empty if neither is so"`
	Degraded []string `json:"degraded" nullable:"false" doc:"vcenter, and the sinks that take no reports"`
	VCenter  *VCenter `json:"vcenter,omitempty" doc:"With ?verbose"`
	Sinks    []Sink   `json:"sinks,omitempty" nullable:"false" doc:"With ?verbose"`
}

// VCenterState says whether the vCenter can be used.
type VCenterState string

// The states of a vCenter.
const (
	VCenterOK               VCenterState = "ok"
	VCenterNotConfigured    VCenterState = "not_configured"
	VCenterUnknown          VCenterState = "unknown" // the first probe after the start has not ended
	VCenterUnreachable      VCenterState = "unreachable"
	VCenterWrongCertificate VCenterState = "wrong_certificate"
	VCenterWrongPassword    VCenterState = "wrong_password"
	VCenterUnusable         VCenterState = "unusable" // for another reason, which the message tells
)

// Down says whether jobs have to wait for the vCenter.
func (s VCenterState) Down() bool { return s != VCenterOK && s != VCenterUnknown }

// VCenter is how the vCenter is now: as the last call to it has found it, or a probe where there is no call.
type VCenter struct {
	State     VCenterState `json:"state" doc:"ok, unknown, or why not: not_configured, unreachable, ..."`
	Since     time.Time    `json:"since" doc:"When this state began"`
	CheckedAt *time.Time   `json:"checked_at" doc:"When it was looked at last; null before the first time"`
	Message   string       `json:"message" doc:"Why it cannot be used; empty if it can"`
	Next      string       `json:"next" doc:"What a person can do; empty if nothing must be done"`
}

// PreflightReport is the body of POST /api/v1/preflight.
type PreflightReport struct {
	OK     bool    `json:"ok" doc:"Every check passed"`
	Checks []Check `json:"checks" nullable:"false"`
}

// Check is one condition that must hold before a job can run.
type Check struct {
	Name    string `json:"name" doc:"What was checked, as in vm, cbt or target disk-2000"`
	OK      bool   `json:"ok"`
	Message string `json:"message" doc:"What was found"`
	Next    string `json:"next" doc:"What a person can do; empty if nothing must be done"`
}

// Sink is a store that reports are projected to: memory, journal or redis. A copy never waits for a sink.
type Sink struct {
	Name       string     `json:"name" doc:"memory, journal, redis or history"`
	OK         bool       `json:"ok"`
	Message    string     `json:"message" doc:"Why it takes no reports; empty while it does"`
	Next       string     `json:"next" doc:"What a person can do; empty if nothing must be done"`
	Since      *time.Time `json:"since" doc:"When that began; null while it takes reports"`
	LagSeconds float64    `json:"lag_seconds" doc:"Age of the oldest report that it has not taken yet"`
}

// JournalEntry is one event of a job as the journal keeps it.
type JournalEntry struct {
	ID   string          `json:"id" doc:"<epoch>-<seq>; the epoch is when the job was submitted, in ms since 1970"`
	Seq  int64           `json:"seq" doc:"From 1 up, without gaps"`
	At   time.Time       `json:"at"`
	Type string          `json:"type" doc:"submitted, snapshot_taken, disk_fell, ..."`
	Text string          `json:"text" doc:"The event in words, on one line"`
	Data json.RawMessage `json:"data" doc:"Fields of an event of this type"`
}

// Throughput has the speeds of a job over time.
type Throughput struct {
	JobID         job.ID   `json:"job_id"`
	StepSeconds   float64  `json:"step_seconds" doc:"Between two samples"`
	WindowSeconds float64  `json:"window_seconds" doc:"How far back the samples go, at most"`
	Samples       []Sample `json:"samples" nullable:"false" doc:"Oldest first; a gap has one without speed and load"`
}

// Sample is the progress and the speed of a job at one moment, or over one step.
type Sample struct {
	At               time.Time    `json:"at" doc:"The begin of the step"`
	Round            int          `json:"round"`
	BytesTransferred int64        `json:"bytes_transferred" doc:"Of the round"`
	BytesPerSecond   *float64     `json:"bytes_per_second" doc:"null in a gap, and while nothing moved"`
	Load             *report.Load `json:"load" doc:"What the time went to; null in a gap"`
}

// TotalThroughput has the speeds of all jobs together over time.
type TotalThroughput struct {
	StepSeconds   float64       `json:"step_seconds" doc:"Between two samples"`
	WindowSeconds float64       `json:"window_seconds" doc:"How far back the samples go, at most"`
	Samples       []TotalSample `json:"samples" nullable:"false" doc:"Oldest first, as those of a job"`
}

// TotalSample is the speed of all jobs together at one moment, or over one step.
type TotalSample struct {
	At             time.Time    `json:"at" doc:"The begin of the step"`
	Jobs           int          `json:"jobs" doc:"How many copied"`
	BytesPerSecond *float64     `json:"bytes_per_second" doc:"null in a gap, and while nothing moved"`
	Load           *report.Load `json:"load" doc:"Mean over the jobs; null in a gap"`
}

// ProgressUpdate is what an older copy tool posts. Every field may be missing; unknown ones are ignored.
type ProgressUpdate struct {
	Stage            string   `json:"stage,omitempty"`
	Status           string   `json:"status,omitempty"`
	BytesTransferred *int64   `json:"bytes_transferred,omitempty" minimum:"0"`
	TotalBytes       *int64   `json:"total_bytes,omitempty" minimum:"0"`
	ThroughputBPS    *float64 `json:"throughput_bps,omitempty" minimum:"0" doc:"Bytes per second"`
	Percent          *float64 `json:"percent,omitempty" minimum:"0"`
	DiskID           string   `json:"disk_id,omitempty" doc:"Left out, the update is about the whole job"`
	SyncType         string   `json:"sync_type,omitempty" doc:"full, initial or incremental"`
	ErrorMessage     string   `json:"error_message,omitempty"`

	_ struct{} `additionalProperties:"true"`
}
