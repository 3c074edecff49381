package job

import (
	"math"
	"strings"
	"time"
)

// Update is what another copy tool posts about its job. Every field may be missing; numbers are at least 0.
type Update struct {
	Stage            string
	Status           string
	BytesTransferred *int64
	TotalBytes       *int64
	ThroughputBPS    *float64 // bytes per second, as that tool sees it
	Percent          *float64
	DiskID           string // "" speaks of the whole job
	SyncType         string // full, initial or incremental
	ErrorMessage     string
}

// Check refuses what cannot be true: negative, infinite or undefined numbers, over-long words. Errors are of kind
// Invalid.
func (u Update) Check() error {
	bad := func(format string, args ...any) error {
		return Errorf("read progress update", Invalid, "", format, args...)
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

// stages maps the words of older tools to our phases and to how far a job is when it gets there, in percent.
var stages = map[string]struct { //nolint:gochecknoglobals // a constant table
	phase   Phase
	percent float64
}{
	"discover": {Preflight, 5}, "initializing": {Preflight, 5},
	"enablecbt": {EnablingCBT, 5}, "querycbt": {Connect, 15},
	"snapshot": {Snapshot, 10}, "creating snapshot": {Snapshot, 10}, "snapshot creation": {Snapshot, 10},
	"preparevolumes": {Connect, 20}, "startexports": {Connect, 20}, "setting up nbd": {Connect, 20},
	"preparing migration": {Connect, 30},
	"transfer":            {Transfer, 0}, "copying data": {Transfer, 0},
	"finalize": {Commit, 100}, "persistchangeids": {Commit, 100}, "cleanup": {Cleanup, 100},
}

var externalStatuses = map[string]Status{ //nolint:gochecknoglobals // a constant table
	"queued": Pending, "pending": Pending, "preparing": Running, "snapshotting": Running, "streaming": Running,
	"finalizing":  Running,
	"in_progress": Running, "running": Running, "succeeded": StatusCompleted, "completed": StatusCompleted,
	"failed": StatusFailed, "error": StatusFailed, "cancelled": StatusCancelled, "canceled": StatusCancelled,
	"paused": Paused,
}

// ExternalTally follows a job of another copy tool by what that tool posts. It belongs to one goroutine.
type ExternalTally struct {
	r    Report
	rate map[DiskID]*rate
}

// NewExternalTally begins with the first update of a job, or goes on from the last report before a restart.
func NewExternalTally(id ID, last *Report, now time.Time) *ExternalTally {
	t := &ExternalTally{rate: map[DiskID]*rate{}}
	if last != nil {
		t.r = *last
		t.r.Disks = append([]ReportDisk(nil), last.Disks...)
		t.r.Phases = append([]ReportPhase(nil), last.Phases...)
		return t
	}
	t.r = Report{
		JobID: id, Origin: External, Status: Pending, Phase: Queued, Mode: Auto, Health: []Health{}, Notes: []string{},
		Rounds: []ReportRound{}, Phases: []ReportPhase{}, Disks: []ReportDisk{}, Allowed: []Verb{}, CreatedAt: now,
	}
	return t
}

// Report is the state as of the last update.
func (t *ExternalTally) Report(now time.Time) Report {
	r := t.r
	r.ObservedAt = now
	r.Disks = append([]ReportDisk{}, t.r.Disks...)
	r.Phases = append([]ReportPhase{}, t.r.Phases...)
	if r.Status == Running && now.Sub(t.r.ObservedAt) > StaleAfter {
		r.Health = []Health{Stale}
		r.BytesPerSecond = 0
	}
	return r
}

// Apply takes one update. A late one, which would make bytes fall, changes nothing: applied is false.
func (t *ExternalTally) Apply(u Update, now time.Time) (applied bool) {
	if t.late(u) {
		return false
	}
	t.enter(u, now)
	if u.DiskID != "" {
		t.disk(DiskID(u.DiskID), u, now)
		t.sum()
	} else {
		t.whole(u, now)
	}
	switch strings.ToLower(u.SyncType) {
	case "full", "initial":
		t.r.Mode = Full
	case "incremental":
		t.r.Mode = Incremental
	}
	t.settle(u, now)
	t.r.ObservedAt = now
	return true
}

// late: bytes fall, and it is neither a new start at 0 nor a return to an earlier stage.
func (t *ExternalTally) late(u Update) bool {
	if u.BytesTransferred == nil || *u.BytesTransferred == 0 || t.earlier(u) {
		return false
	}
	if u.DiskID == "" {
		return len(t.r.Disks) == 0 && *u.BytesTransferred < t.r.BytesTransferred
	}
	i := t.find(DiskID(u.DiskID))
	return i >= 0 && *u.BytesTransferred < t.r.Disks[i].BytesTransferred
}

func (t *ExternalTally) earlier(u Update) bool {
	s, ok := stages[strings.ToLower(u.Stage)]
	return ok && order(s.phase) < order(t.r.Phase) && !t.r.Status.Terminal()
}

func order(p Phase) int {
	for i, q := range Way() {
		if p == q {
			return i
		}
	}
	return len(Way())
}

func (t *ExternalTally) enter(u Update, now time.Time) {
	if u.Stage != "" {
		t.r.Operation = u.Stage
	}
	s, ok := stages[strings.ToLower(u.Stage)]
	if !ok || s.phase == t.r.Phase {
		return
	}
	if n := len(t.r.Phases); n > 0 {
		t.r.Phases[n-1].EndedAt = &now
	}
	t.r.Phase = s.phase
	t.r.Phases = append(t.r.Phases, ReportPhase{Name: s.phase, Round: 1, StartedAt: now})
	p := s.percent
	t.r.Percent = &p
}

func (t *ExternalTally) find(id DiskID) int {
	for i, d := range t.r.Disks {
		if d.DiskID == id {
			return i
		}
	}
	return -1
}

func (t *ExternalTally) disk(id DiskID, u Update, now time.Time) {
	i := t.find(id)
	if i < 0 {
		t.r.Disks = append(t.r.Disks, ReportDisk{DiskID: id, Label: string(id), Mode: t.r.Mode, Status: DiskPending,
			Attempt: 1})
		i = len(t.r.Disks) - 1
	}
	d := &t.r.Disks[i]
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
		d.BytesPerSecond = t.speed(id, n, u, now)
	}
	d.Percent = percentOf(u, d.BytesTransferred, d.BytesToTransfer)
	switch externalStatuses[strings.ToLower(u.Status)] {
	case StatusCompleted:
		d.Status = DiskDone
	case StatusFailed, StatusCancelled:
		d.Status = DiskFailed
	case Paused:
		d.Status = DiskPaused
	case Pending:
		d.Status = DiskPending
	default:
		d.Status = DiskRunning
	}
	if u.ErrorMessage != "" {
		d.LastCause = &ReportError{Code: Internal, Message: u.ErrorMessage, Phase: t.r.Phase, At: now}
	}
}

func (t *ExternalTally) speed(id DiskID, total int64, u Update, now time.Time) float64 {
	if t.rate[id] == nil {
		t.rate[id] = &rate{}
	}
	t.rate[id].total(total, now)
	if u.ThroughputBPS != nil && *u.ThroughputBPS > 0 {
		return *u.ThroughputBPS
	}
	return t.rate[id].fast
}

// sum makes the job's numbers from those of its disks.
func (t *ExternalTally) sum() {
	var done, total int64
	var speed float64
	known := true
	for _, d := range t.r.Disks {
		done += d.BytesTransferred
		speed += d.BytesPerSecond
		if d.BytesToTransfer == nil {
			known = false
			continue
		}
		total += *d.BytesToTransfer
	}
	t.r.BytesTransferred, t.r.BytesPerSecond = done, speed
	if known {
		t.r.BytesToTransfer, t.r.BytesCapacity = &total, &total
		t.r.Percent = percentOf(Update{}, done, &total)
	}
}

func (t *ExternalTally) whole(u Update, now time.Time) {
	if len(t.r.Disks) == 0 {
		if u.TotalBytes != nil {
			t.r.BytesToTransfer, t.r.BytesCapacity = u.TotalBytes, u.TotalBytes
		}
		if u.BytesTransferred != nil {
			t.r.BytesTransferred = *u.BytesTransferred
			t.r.BytesPerSecond = t.speed("", *u.BytesTransferred, u, now)
		}
		if p := percentOf(u, t.r.BytesTransferred, t.r.BytesToTransfer); p != nil {
			t.r.Percent = p
		}
	}
	if u.ErrorMessage != "" {
		t.r.Error = &ReportError{Code: Internal, Message: u.ErrorMessage, Phase: t.r.Phase, At: now}
	}
}

// settle sets the job's status. One disk's end is not the job's: only an update without a disk ends the job.
func (t *ExternalTally) settle(u Update, now time.Time) {
	status, known := externalStatuses[strings.ToLower(u.Status)]
	if u.DiskID != "" && status.Terminal() {
		status, known = Running, true
	}
	if known {
		t.r.Status = status
	} else if t.r.Status == Pending || t.r.Status.Terminal() {
		t.r.Status = Running
	}
	if t.r.StartedAt == nil && t.r.Status != Pending {
		t.r.StartedAt = &now
	}
	t.r.BytesPerSecondAverage = t.r.BytesPerSecond
	if t.r.StartedAt != nil && now.After(*t.r.StartedAt) {
		t.r.BytesPerSecondAverage = float64(t.r.BytesTransferred) / now.Sub(*t.r.StartedAt).Seconds()
	}
	t.r.BytesPerSecondPeak = max(t.r.BytesPerSecondPeak, t.r.BytesPerSecond)
	t.r.ETASeconds, t.r.ETAAt, t.r.EndedAt, t.r.Health = nil, nil, nil, []Health{}
	if t.r.Status.Terminal() {
		t.end(now)
		return
	}
	if b := t.r.BytesToTransfer; b != nil && t.r.BytesPerSecond > 0 {
		t.r.ETASeconds, t.r.ETAAt = eta(*b-t.r.BytesTransferred, t.r.BytesPerSecond, now)
	}
	if t.r.Percent != nil {
		t.r.OverallPercent = max(t.r.OverallPercent, min(99, *t.r.Percent*0.99))
	}
}

func (t *ExternalTally) end(now time.Time) {
	t.r.EndedAt = &now
	t.r.BytesPerSecond = 0
	if n := len(t.r.Phases); n > 0 && t.r.Phases[n-1].EndedAt == nil {
		t.r.Phases[n-1].EndedAt = &now
	}
	switch t.r.Status {
	case StatusCompleted:
		full := 100.0
		t.r.Phase, t.r.OverallPercent, t.r.Percent, t.r.Error = Completed, 100, &full, nil
	case StatusFailed:
		t.r.Phase = Failed
	default:
		t.r.Phase = Stopped
	}
}

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
