package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Report is what is shown of one job at one moment. It is the body of GET /api/v1/jobs/{id}, the data of an event, the
// JSON in Redis and the CLI's -o json: the same bytes everywhere. A value that is not known is null. Times are RFC 3339
// in UTC, sizes are bytes. It is a plain value; slices in it belong to the report and are never changed.
type Report struct {
	JobID      job.ID    `json:"job_id"`
	Epoch      int64     `json:"epoch"` // start of the writer, in ms since 1970; grows with each start
	Seq        int64     `json:"seq"`   // grows with each report of the writer, over all jobs
	ObservedAt time.Time `json:"observed_at"`
	// when the newest numbers of a running disk were taken; null before the first
	SampledAt *time.Time `json:"sampled_at"`
	Origin    Origin     `json:"origin"`
	// At an OMA: the node that runs the job, and how the OMA knows of it. Both are left out for a job of this daemon.
	Node    string   `json:"node,omitempty"`
	Watched *Watched `json:"watched,omitempty"`

	VM   VM       `json:"vm"`
	Mode job.Mode `json:"mode"` // of the current or last round; auto until that is decided
	// what was asked for: the mode, and the options with the limits as they are now; null for a job of another tool
	RequestedMode *job.Mode    `json:"requested_mode"`
	Options       *job.Options `json:"options"`
	Status        job.Status   `json:"status"`
	Phase         job.Phase    `json:"phase"`
	Operation     string       `json:"operation"` // what the job does now, in words
	Health        []Health     `json:"health"`
	Cancelling    bool         `json:"cancelling"` // a cancel was received, and the job has not ended yet
	Round         int          `json:"round"`      // from 1; 0 before the first

	OverallPercent   float64  `json:"overall_percent"`   // of the whole job; never decreases; 100 only when completed
	Percent          *float64 `json:"percent"`           // of the bytes of this round
	BytesCapacity    *int64   `json:"bytes_capacity"`    // sum over the disks
	BytesToTransfer  *int64   `json:"bytes_to_transfer"` // what this round must handle, fixed when it is planned
	BytesTransferred int64    `json:"bytes_transferred"` // acknowledged by the targets in this round
	BytesSkipped     int64    `json:"bytes_skipped"`     // found zero while reading, or already zero on the target
	BytesResent      int64    `json:"bytes_resent"`      // sent again after restarts

	// speeds of the bytes that move now, over about 5 s and about 60 s; null while nothing moves
	BytesPerSecond        *float64   `json:"bytes_per_second"`
	BytesPerSecondAverage *float64   `json:"bytes_per_second_average"`
	BytesPerSecondPeak    float64    `json:"bytes_per_second_peak"`
	ETASeconds            *int64     `json:"eta_seconds"` // until this round is copied: that of the slowest disk
	ETAAt                 *time.Time `json:"eta_at"`
	StalledSince          *time.Time `json:"stalled_since"`
	WaitingFor            string     `json:"waiting_for"` // source, target, vcenter or journal; "" while bytes move
	Wait                  *Wait      `json:"wait"`        // the longest of its waits; null for none
	Load                  Load       `json:"load"`

	CreatedAt time.Time  `json:"created_at"`
	StartedAt *time.Time `json:"started_at"`
	EndedAt   *time.Time `json:"ended_at"`

	Snapshot *Snapshot  `json:"snapshot"` // the VM snapshot that the job holds now
	Error    *Error     `json:"error"`
	Phases   []Phase    `json:"phases"`
	Rounds   []Round    `json:"rounds"`
	Disks    []Disk     `json:"disks"`
	Notes    []string   `json:"notes"` // decisions worth knowing, such as the reason of a full copy
	Allowed  []job.Verb `json:"allowed"`
}

// Origin says which program runs a job.
type Origin string

// The origins.
const (
	Own      Origin = "vmferry"
	External Origin = "external" // another copy tool, which posts its progress here
)

// VM names the VM of a report.
type VM struct {
	Name       string `json:"name"`
	Path       string `json:"path"`
	Ref        string `json:"ref"`
	UUID       string `json:"uuid"`
	CBTEnabled bool   `json:"cbt_enabled"`
	PowerState string `json:"power_state"`
	VCenter    string `json:"vcenter,omitempty"` // host of the vCenter
	Datacenter string `json:"datacenter,omitempty"`
}

// Snapshot is a VM snapshot that a job holds.
type Snapshot struct {
	Name     string    `json:"name"`
	Ref      string    `json:"ref"`
	Quiesced bool      `json:"quiesced"`
	TakenAt  time.Time `json:"taken_at"`
}

// Error is the reason why a job or disk failed or is retried.
type Error struct {
	Code    job.Kind  `json:"code"`
	Message string    `json:"message"`
	Next    string    `json:"next"` // what a person can do; may be empty
	Phase   job.Phase `json:"phase"`
	At      time.Time `json:"at"`
}

// Phase is one stay in a phase.
type Phase struct {
	Name            job.Phase  `json:"name"`
	Round           int        `json:"round"`
	StartedAt       time.Time  `json:"started_at"`
	EndedAt         *time.Time `json:"ended_at"`
	DurationSeconds *float64   `json:"duration_seconds"` // null while it goes on
	// of the duration: how long it waited instead of working, and for what, the longest first. Of several disks it is
	// the mean over those with something left to do. Left out for none, and in phases of versions that did not count
	WaitedSeconds float64     `json:"waited_seconds,omitempty"`
	Waits         []PhaseWait `json:"waits,omitempty"`
}

// Round is one round over all disks.
type Round struct {
	Round            int        `json:"round"`
	Mode             job.Mode   `json:"mode"` // full if any disk goes full
	BytesToTransfer  int64      `json:"bytes_to_transfer"`
	BytesTransferred int64      `json:"bytes_transferred"`
	BytesSkipped     int64      `json:"bytes_skipped"`
	BytesResent      int64      `json:"bytes_resent"`
	BytesKept        int64      `json:"bytes_kept"` // of them: durable already, from an earlier round
	StartedAt        time.Time  `json:"started_at"`
	EndedAt          *time.Time `json:"ended_at"`
	DurationSeconds  *float64   `json:"duration_seconds"`
	Load             Load       `json:"load"` // of the whole round so far
}

// Disk is one disk in this round.
type Disk struct {
	DiskID job.DiskID `json:"disk_id"`
	Label  string     `json:"label"`
	File   string     `json:"file"`
	Target string     `json:"target"`           // without secrets
	Volume string     `json:"volume,omitempty"` // ID of the target's row in the ledger; "" before the target is claimed
	Unit   *int32     `json:"unit,omitempty"`   // number of the disk at its controller
	// thin or thick
	Provisioning string `json:"provisioning,omitempty"`
	// whether a write of others to the target would show; false for an export; null before the target is prepared
	Stamped *bool `json:"stamped"`
	// when a round that moved the disk to this target was committed last; null before that, and from the first byte of
	// a full copy on
	ProvedAt  *time.Time    `json:"proved_at"`
	Mode      job.Mode      `json:"mode"`
	Status    job.DiskPhase `json:"status"`
	Transport string        `json:"transport"`  // how it is read: vddk, curl, nbd; "" while it is not read
	SourcePID int           `json:"source_pid"` // of the nbdkit that reads it; 0 for none

	Percent          *float64 `json:"percent"`
	BytesCapacity    int64    `json:"bytes_capacity"`
	BytesToTransfer  *int64   `json:"bytes_to_transfer"`
	BytesTransferred int64    `json:"bytes_transferred"`
	BytesSkipped     int64    `json:"bytes_skipped"`
	BytesResent      int64    `json:"bytes_resent"`
	BytesDurable     int64    `json:"bytes_durable"`  // flushed and recorded in the checkpoint: no crash loses them
	BytesVerified    int64    `json:"bytes_verified"` // read back and compared

	SampledAt      *time.Time `json:"sampled_at"`       // when these numbers were taken; null before the first
	BytesPerSecond *float64   `json:"bytes_per_second"` // null while nothing moves
	ETASeconds     *int64     `json:"eta_seconds"`
	LastByteAt     *time.Time `json:"last_byte_at"`
	StalledSince   *time.Time `json:"stalled_since"`
	// since when a request to the source or the target is under way without an answer, after SilentAfter
	SilentSince *time.Time `json:"silent_since"`
	Wait        *Wait      `json:"wait"` // for something that is unavailable; null for none
	// the limit that its attempt waits for; source or target while it is stalled; "" while it copies
	WaitingFor string `json:"waiting_for"`
	Load       Load   `json:"load"`

	Attempt      int        `json:"attempt"`
	Restarts     int        `json:"restarts"` // over the rounds since the job was submitted or retried
	BackoffUntil *time.Time `json:"backoff_until"`
	LastCause    *Error     `json:"last_cause"`
	ChangeID     string     `json:"change_id"` // of this round's snapshot
	// of the snapshot that the target held when the round began; "" for a full round
	PreviousChangeID string `json:"previous_change_id,omitempty"`
}

// Wait is the wait for something that is unavailable. It holds no permit.
type Wait struct {
	For   string    `json:"for"` // vcenter, host (an ESXi host), source, target or journal
	Since time.Time `json:"since"`
	// when the patience ends, and the disk or job fails; null for a wait without end: the removal of a snapshot
	Until   *time.Time `json:"until"`
	Key     string     `json:"key"`     // the option and configuration key that sets the patience
	Message string     `json:"message"` // what was tried last, and what came
}

// Load says what the work waited for, as shares from 0 to 1 of the last interval, or of a whole round.
type Load struct {
	Source   float64 `json:"source"`
	Target   float64 `json:"target"`
	Throttle float64 `json:"throttle"`
}

// Version is <epoch>-<seq>: the ETag, the event id and the Redis stream id of this report.
func (r Report) Version() Version { return Version{r.Epoch, r.Seq} }

// Version orders reports: a higher epoch wins, then a higher seq.
type Version struct{ Epoch, Seq int64 }

func (v Version) String() string { return fmt.Sprintf("%d-%d", v.Epoch, v.Seq) }

// Less says whether v is older than w.
func (v Version) Less(w Version) bool {
	return v.Epoch < w.Epoch || v.Epoch == w.Epoch && v.Seq < w.Seq
}

// ParseVersion reads what Version.String wrote; false for anything else.
func ParseVersion(s string) (Version, bool) {
	a, b, ok := strings.Cut(s, "-")
	epoch, err1 := strconv.ParseInt(a, 10, 64)
	seq, err2 := strconv.ParseInt(b, 10, 64)
	if !ok || err1 != nil || err2 != nil || epoch < 0 || seq < 0 {
		return Version{}, false
	}
	return Version{epoch, seq}, true
}

// Health is a flag beside the status, for people: the job goes on, but something holds it back.
type Health string

// The flags.
const (
	Throttled Health = "throttled" // it waits for a bandwidth limit more than half of the time, or for a permit
	Retrying  Health = "retrying"  // an attempt or a step failed and will be retried
	// Unavailable: it waits for a vCenter, an ESXi host, a source or a target that does not answer.
	Unavailable Health = "unavailable"
	Silent      Health = "silent"   // a request to source or target has had no answer for SilentAfter
	Stalled     Health = "stalled"  // no byte and no finished request for StallAfter, without a limit that explains it
	Degraded    Health = "degraded" // a projection (Redis, SQL) does not take reports; copying goes on
	Stale       Health = "stale"    // the numbers are old: no progress came for StaleAfter
)
