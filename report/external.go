package report

import (
	"math"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Update is what another copy tool posts about its job. Each field may be missing; numbers are at least 0.
type Update struct {
	Stage            string
	Status           string
	BytesTransferred *int64
	TotalBytes       *int64
	ThroughputBPS    *float64 // bytes per second, as that tool sees it
	Percent          *float64
	DiskID           string // "" is for the whole job
	SyncType         string // full, initial or incremental
	ErrorMessage     string
}

// Check refuses negative, infinite or undefined numbers and texts that are too long. Errors are of kind Invalid.
func (u Update) Check() error {
	bad := func(format string, args ...any) error {
		return job.Errorf("read progress update", job.Invalid, "", format, args...)
	}
	for name, n := range map[string]*int64{"bytes_transferred": u.BytesTransferred, "total_bytes": u.TotalBytes} {
		if n != nil && *n < 0 {
			return bad("%s is negative (%d)", name, *n)
		}
	}
	for name, f := range map[string]*float64{"throughput_bps": u.ThroughputBPS, "percent": u.Percent} {
		if f != nil && (math.IsNaN(*f) || math.IsInf(*f, 0) || *f < 0) {
			return bad("%s is not a number from 0 up", name)
		}
	}
	if len(u.DiskID) > 128 || len(u.Stage) > 128 || len(u.Status) > 128 || len(u.SyncType) > 128 ||
		len(u.ErrorMessage) > 64<<10 {
		return bad("a text is too long")
	}
	return nil
}

// stages maps the stages of other tools, in lower case, to a phase and to the percent of a job that enters the stage.
var stages = map[string]struct { //nolint:gochecknoglobals // a constant table
	phase   job.Phase
	percent float64
}{
	"discover": {job.Preflight, 5}, "initializing": {job.Preflight, 5},
	"enablecbt": {job.EnablingCBT, 5}, "querycbt": {job.Connect, 15},
	"snapshot": {job.Snapshot, 10}, "creating snapshot": {job.Snapshot, 10}, "snapshot creation": {job.Snapshot, 10},
	"preparevolumes": {job.Connect, 20}, "startexports": {job.Connect, 20}, "setting up nbd": {job.Connect, 20},
	"preparing migration": {job.Connect, 30},
	"transfer":            {job.Transfer, 0}, "copying data": {job.Transfer, 0},
	"finalize": {job.Commit, 100}, "persistchangeids": {job.Commit, 100}, "cleanup": {job.Cleanup, 100},
}

// externalStatuses maps the statuses of other tools, in lower case.
var externalStatuses = map[string]job.Status{ //nolint:gochecknoglobals // a constant table
	"queued": job.Pending, "pending": job.Pending,
	"preparing": job.Running, "snapshotting": job.Running, "streaming": job.Running, "finalizing": job.Running,
	"in_progress": job.Running, "running": job.Running, "paused": job.Paused,
	"succeeded": job.StatusCompleted, "completed": job.StatusCompleted,
	"failed": job.StatusFailed, "error": job.StatusFailed,
	"cancelled": job.StatusCancelled, "canceled": job.StatusCancelled,
}

// ExternalBuilder makes the reports of another copy tool's job from the updates that this tool posts. It belongs to one
// goroutine.
type ExternalBuilder struct {
	r    Report
	rate map[job.DiskID]*rate
}

// NewExternalBuilder begins with the first update of a job, or goes on from the last report before a restart.
func NewExternalBuilder(id job.ID, last *Report, now time.Time) *ExternalBuilder {
	b := &ExternalBuilder{rate: map[job.DiskID]*rate{}}
	if last != nil {
		b.r = *last
		b.r.Disks = append([]Disk(nil), last.Disks...)
		b.r.Phases = append([]Phase(nil), last.Phases...)
		return b
	}
	b.r = Report{
		JobID: id, Origin: External, Status: job.Pending, Phase: job.Queued, Mode: job.Auto, CreatedAt: now,
		Health: []Health{}, Notes: []string{}, Rounds: []Round{}, Phases: []Phase{}, Disks: []Disk{},
		Allowed: []job.Verb{},
	}
	return b
}

// Report is the report as of the last update. A running job whose tool is silent for StaleAfter is stale.
func (b *ExternalBuilder) Report(now time.Time) Report {
	r := b.r
	r.ObservedAt = now
	r.Disks = append([]Disk{}, b.r.Disks...)
	r.Phases = append([]Phase{}, b.r.Phases...)
	if r.Status == job.Running && now.Sub(b.r.ObservedAt) > StaleAfter {
		r.Health = []Health{Stale}
		r.BytesPerSecond = nil
	}
	return r
}

// Apply takes one update. applied is false if the update is outdated: it then changes nothing.
func (b *ExternalBuilder) Apply(u Update, now time.Time) (applied bool) {
	if b.outdated(u) {
		return false
	}
	b.enter(u, now)
	if u.DiskID != "" {
		b.disk(job.DiskID(u.DiskID), u, now)
		b.sum()
	} else {
		b.whole(u, now)
	}
	switch strings.ToLower(u.SyncType) {
	case "full", "initial":
		b.r.Mode = job.Full
	case "incremental":
		b.r.Mode = job.Incremental
	}
	b.settle(u, now)
	b.r.ObservedAt = now
	return true
}

// outdated says whether an update has fewer bytes than an update before it. A new start at 0 is not outdated, nor is a
// return to an earlier stage.
func (b *ExternalBuilder) outdated(u Update) bool {
	if u.BytesTransferred == nil || *u.BytesTransferred == 0 || b.returns(u) {
		return false
	}
	if u.DiskID == "" {
		return len(b.r.Disks) == 0 && *u.BytesTransferred < b.r.BytesTransferred
	}
	i := b.find(job.DiskID(u.DiskID))
	return i >= 0 && *u.BytesTransferred < b.r.Disks[i].BytesTransferred
}

// returns says whether the update names an earlier stage than the current one.
func (b *ExternalBuilder) returns(u Update) bool {
	s, ok := stages[strings.ToLower(u.Stage)]
	return ok && order(s.phase) < order(b.r.Phase) && !b.r.Status.Terminal()
}

// order is the place of a phase among the phases of a job.
func order(p job.Phase) int {
	for i, q := range job.Way() {
		if p == q {
			return i
		}
	}
	return len(job.Way())
}

// enter goes to the phase of the update's stage.
func (b *ExternalBuilder) enter(u Update, now time.Time) {
	if u.Stage != "" {
		b.r.Operation = u.Stage
	}
	s, ok := stages[strings.ToLower(u.Stage)]
	if !ok || s.phase == b.r.Phase {
		return
	}
	if n := len(b.r.Phases); n > 0 {
		b.r.Phases[n-1].EndedAt = &now
	}
	b.r.Phase = s.phase
	b.r.Phases = append(b.r.Phases, Phase{Name: s.phase, Round: 1, StartedAt: now})
	p := s.percent
	b.r.Percent = &p
}

// find is the index of a disk; -1 if no update has named it.
func (b *ExternalBuilder) find(id job.DiskID) int {
	for i, d := range b.r.Disks {
		if d.DiskID == id {
			return i
		}
	}
	return -1
}

// disk takes an update of one disk. Fewer bytes than before are a new attempt.
func (b *ExternalBuilder) disk(id job.DiskID, u Update, now time.Time) {
	i := b.find(id)
	if i < 0 {
		b.r.Disks = append(b.r.Disks, Disk{
			DiskID: id, Label: string(id), Mode: b.r.Mode, Status: job.DiskPending, Attempt: 1,
		})
		i = len(b.r.Disks) - 1
	}
	d := &b.r.Disks[i]
	if u.TotalBytes != nil {
		d.BytesToTransfer, d.BytesCapacity = u.TotalBytes, *u.TotalBytes
	}
	if u.BytesTransferred != nil {
		n := *u.BytesTransferred
		if n < d.BytesTransferred {
			d.Attempt++
			d.Restarts++
		}
		if n > d.BytesTransferred {
			d.LastByteAt = &now
		}
		d.BytesTransferred = n
		d.BytesPerSecond = SpeedOf(b.speed(id, n, u, now))
	}
	d.Percent = percentOf(u, d.BytesTransferred, d.BytesToTransfer)
	switch externalStatuses[strings.ToLower(u.Status)] {
	case job.StatusCompleted:
		d.Status = job.DiskDone
	case job.StatusFailed, job.StatusCancelled:
		d.Status = job.DiskFailed
	case job.Paused:
		d.Status = job.DiskPaused
	case job.Pending:
		d.Status = job.DiskPending
	default:
		d.Status = job.DiskRunning
	}
	if u.ErrorMessage != "" {
		d.LastCause = &Error{Code: job.Internal, Message: u.ErrorMessage, Phase: b.r.Phase, At: now}
	}
}

// speed is the speed that the tool posts or, if it posts none, the measured one.
func (b *ExternalBuilder) speed(id job.DiskID, total int64, u Update, now time.Time) float64 {
	if b.rate[id] == nil {
		b.rate[id] = &rate{}
	}
	b.rate[id].sample(total, now)
	if u.ThroughputBPS != nil && *u.ThroughputBPS > 0 {
		return *u.ThroughputBPS
	}
	return b.rate[id].fast
}

// sum sets the job's numbers to the sums over its disks.
func (b *ExternalBuilder) sum() {
	var done, total int64
	var speed float64
	known := true
	for _, d := range b.r.Disks {
		done += d.BytesTransferred
		speed += SpeedOr0(d.BytesPerSecond)
		if d.BytesToTransfer == nil {
			known = false
			continue
		}
		total += *d.BytesToTransfer
	}
	b.r.BytesTransferred, b.r.BytesPerSecond = done, SpeedOf(speed)
	if known {
		b.r.BytesToTransfer, b.r.BytesCapacity = &total, &total
		b.r.Percent = percentOf(Update{}, done, &total)
	}
}

// whole takes an update of the whole job. Its numbers count only while no disk is known.
func (b *ExternalBuilder) whole(u Update, now time.Time) {
	if len(b.r.Disks) == 0 {
		if u.TotalBytes != nil {
			b.r.BytesToTransfer, b.r.BytesCapacity = u.TotalBytes, u.TotalBytes
		}
		if u.BytesTransferred != nil {
			b.r.BytesTransferred = *u.BytesTransferred
			b.r.BytesPerSecond = SpeedOf(b.speed("", *u.BytesTransferred, u, now))
		}
		if p := percentOf(u, b.r.BytesTransferred, b.r.BytesToTransfer); p != nil {
			b.r.Percent = p
		}
	}
	if u.ErrorMessage != "" {
		b.r.Error = &Error{Code: job.Internal, Message: u.ErrorMessage, Phase: b.r.Phase, At: now}
	}
}

// settle sets the job's status and what follows from it. Only an update without a disk ends the job.
func (b *ExternalBuilder) settle(u Update, now time.Time) {
	status, known := externalStatuses[strings.ToLower(u.Status)]
	if u.DiskID != "" && status.Terminal() {
		status, known = job.Running, true
	}
	if known {
		b.r.Status = status
	} else if b.r.Status == job.Pending || b.r.Status.Terminal() {
		b.r.Status = job.Running
	}
	if b.r.StartedAt == nil && b.r.Status != job.Pending {
		b.r.StartedAt = &now
	}
	b.r.BytesPerSecondAverage = b.r.BytesPerSecond
	if b.r.StartedAt != nil && now.After(*b.r.StartedAt) {
		b.r.BytesPerSecondAverage = SpeedOf(float64(b.r.BytesTransferred) / now.Sub(*b.r.StartedAt).Seconds())
	}
	b.r.BytesPerSecondPeak = max(b.r.BytesPerSecondPeak, SpeedOr0(b.r.BytesPerSecond))
	b.r.ETASeconds, b.r.ETAAt, b.r.EndedAt, b.r.Health = nil, nil, nil, []Health{}
	if b.r.Status.Terminal() {
		b.end(now)
		return
	}
	if n := b.r.BytesToTransfer; n != nil && b.r.BytesPerSecond != nil {
		b.r.ETASeconds, b.r.ETAAt = eta(*n-b.r.BytesTransferred, *b.r.BytesPerSecond, now)
	}
	if b.r.Percent != nil {
		b.r.OverallPercent = max(b.r.OverallPercent, min(99, *b.r.Percent*0.99))
	}
}

// end ends the job with its status.
func (b *ExternalBuilder) end(now time.Time) {
	b.r.EndedAt = &now
	b.r.BytesPerSecond = nil
	if n := len(b.r.Phases); n > 0 && b.r.Phases[n-1].EndedAt == nil {
		b.r.Phases[n-1].EndedAt = &now
	}
	switch b.r.Status {
	case job.StatusCompleted:
		full := 100.0
		b.r.Phase, b.r.OverallPercent, b.r.Percent, b.r.Error = job.Completed, 100, &full, nil
	case job.StatusFailed:
		b.r.Phase = job.Failed
	default:
		b.r.Phase = job.PhaseCancelled
	}
}

// percentOf is computed from the bytes or, if their total is not known, taken from the update; nil if neither is known.
func percentOf(u Update, done int64, total *int64) *float64 {
	var p float64
	switch {
	case total != nil && *total > 0:
		p = 100 * float64(done) / float64(*total)
	case u.Percent != nil:
		p = *u.Percent
	default:
		return nil
	}
	p = min(100, p)
	return &p
}
