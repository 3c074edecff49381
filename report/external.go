package report

import (
	"errors"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/vmferry/vmferry/job"
)

// Limits of what one external job holds, whatever its tool posts.
const (
	MaxExternalDisks = 256
	maxPhases        = 64      // stays in a phase, the newest ones
	maxMessage       = 2 << 10 // bytes of an error message
	nearly           = 99.99   // the most of a percent while it is not certain that nothing is missing
)

// ErrTooManyExternal is in the error for the update of a new external job when no more of them are taken.
var ErrTooManyExternal = errors.New("too many external jobs are known")

// ExternalBuilder makes the reports of another copy tool's job from the updates that this tool posts. It belongs to one
// goroutine. What it holds is bounded, whatever the tool posts.
//
// An attempt begins with the first update, and again with a return to an earlier stage, or with 0 bytes. Within an
// attempt no count and no overall percent decreases, and a percent only when another stage begins or another disk
// comes. 100 is the percent of a completed job only.
type ExternalBuilder struct {
	r     Report
	rate  map[job.DiskID]*rate
	heard time.Time // of the last update, also of one that changed nothing
}

// NewExternalBuilder begins with the first update of a job, or goes on from the last report before a restart.
func NewExternalBuilder(id job.ID, last *Report, now time.Time) *ExternalBuilder {
	b := &ExternalBuilder{rate: map[job.DiskID]*rate{}, heard: now}
	if last != nil {
		b.r = *last
		b.r.Disks = slices.Clone(last.Disks)
		b.r.Phases = slices.Clone(last.Phases)
		if b.heard = last.ObservedAt; last.SampledAt != nil {
			b.heard = *last.SampledAt
		}
		b.r.Health = []Health{}
		b.allow()
		return b
	}
	b.r = Report{
		JobID: id, Origin: External, Status: job.Pending, Phase: job.Queued, Mode: job.Auto, CreatedAt: now,
		Health: []Health{}, Notes: []string{}, Rounds: []Round{}, Phases: []Phase{}, Disks: []Disk{},
	}
	b.allow()
	return b
}

// Heard is when the last update came, also one that changed nothing.
func (b *ExternalBuilder) Heard() time.Time { return b.heard }

// Report is the report as of the last update. A running job whose tool is silent for StaleAfter is stale: it has no
// speed and no ETA then.
func (b *ExternalBuilder) Report(now time.Time) Report {
	r := b.r
	r.ObservedAt = now
	r.Disks = append([]Disk{}, b.r.Disks...)
	r.Phases = append([]Phase{}, b.r.Phases...)
	if r.Status == job.Running && now.Sub(b.heard) > StaleAfter {
		r.Health = []Health{Stale}
		r.stand()
	}
	return r
}

// Apply takes one update that Update.Check has passed. applied is false if the update is outdated, or if the job has
// ended and the update does not begin a new attempt: it then changes nothing but Heard. It fails with Invalid, and
// changes nothing, if the job has too many disks.
func (b *ExternalBuilder) Apply(u Update, now time.Time) (applied bool, err error) {
	if u.DiskID != "" && b.find(job.DiskID(u.DiskID)) < 0 && len(b.r.Disks) >= MaxExternalDisks {
		return false, job.Errorf("read progress update", job.Invalid, "", "the job has more than %d disks",
			MaxExternalDisks)
	}
	b.heard = now
	again := b.again(u)
	if !again && (b.over(u) || b.outdated(u)) {
		return false, nil
	}
	if again {
		b.restart(u)
	}
	b.r.SampledAt = &now
	b.enter(u, now)
	if u.DiskID != "" {
		b.disk(job.DiskID(u.DiskID), u, again, now)
	} else {
		b.whole(u, again, now)
	}
	switch strings.ToLower(u.SyncType) {
	case "full", "initial":
		b.r.Mode = job.Full
	case "incremental":
		b.r.Mode = job.Incremental
	}
	b.settle(u, now)
	return true, nil
}

// Cancel ends the job as cancelled. Its tool is not told: what it posts from then on is ignored until it begins a new
// attempt. It fails with Conflict if the job has ended.
func (b *ExternalBuilder) Cancel(now time.Time) error {
	if b.r.Status.Terminal() {
		return job.Errorf("cancel job", job.Conflict, "Delete it", "job %s has ended (%s)", b.r.JobID, b.r.Status)
	}
	b.r.Status = job.StatusCancelled
	b.r.Notes = []string{"cancelled here; the copy tool that posts its progress was not told, and may go on"}
	b.end(now)
	return nil
}

// last is the newest phase that a stage has named; Queued before the first.
func (b *ExternalBuilder) last() job.Phase {
	if n := len(b.r.Phases); n > 0 {
		return b.r.Phases[n-1].Name
	}
	return job.Queued
}

// again says whether an update begins a new attempt: it returns to an earlier stage, or to 0 bytes.
func (b *ExternalBuilder) again(u Update) bool {
	if externalStatuses[strings.ToLower(u.Status)].Terminal() {
		return false
	}
	if s, ok := stages[strings.ToLower(u.Stage)]; ok && order(s.phase) < order(b.last()) {
		return true
	}
	if u.BytesTransferred == nil || *u.BytesTransferred != 0 {
		return false
	}
	if b.r.Status.Terminal() {
		return true
	}
	if u.DiskID == "" {
		return len(b.r.Disks) == 0 && b.r.BytesTransferred > 0
	}
	i := b.find(job.DiskID(u.DiskID))
	return i >= 0 && b.r.Disks[i].BytesTransferred > 0
}

// over says whether the job or disk has ended and the update does not change that. A job that failed may go on with
// more bytes, and its end may be told again.
func (b *ExternalBuilder) over(u Update) bool {
	if !b.r.Status.Terminal() {
		i := b.find(job.DiskID(u.DiskID))
		return i >= 0 && b.r.Disks[i].Status == job.DiskDone && !b.gains(u) &&
			!externalStatuses[strings.ToLower(u.Status)].Terminal()
	}
	ends := u.DiskID == "" && externalStatuses[strings.ToLower(u.Status)].Terminal()
	return b.r.Status != job.StatusFailed || !ends && !b.gains(u)
}

// gains says whether an update has more bytes than are known or, without bytes, a higher percent.
func (b *ExternalBuilder) gains(u Update) bool {
	done, percent := b.r.BytesTransferred, b.r.Percent
	if u.DiskID != "" {
		i := b.find(job.DiskID(u.DiskID))
		if i < 0 {
			return true
		}
		done, percent = b.r.Disks[i].BytesTransferred, b.r.Disks[i].Percent
	}
	if u.BytesTransferred != nil {
		return *u.BytesTransferred > done
	}
	return u.Percent != nil && (percent == nil || *u.Percent > *percent)
}

// outdated says whether an update has fewer bytes than an update before it. The end of the job is never outdated.
func (b *ExternalBuilder) outdated(u Update) bool {
	if u.BytesTransferred == nil || u.DiskID == "" && externalStatuses[strings.ToLower(u.Status)].Terminal() {
		return false
	}
	if u.DiskID == "" {
		return len(b.r.Disks) == 0 && *u.BytesTransferred < b.r.BytesTransferred
	}
	i := b.find(job.DiskID(u.DiskID))
	return i >= 0 && *u.BytesTransferred < b.r.Disks[i].BytesTransferred
}

// restart begins a new attempt. The overall percent starts again if the whole job does.
func (b *ExternalBuilder) restart(u Update) {
	if b.r.Status.Terminal() {
		b.r.Status, b.r.StartedAt, b.r.EndedAt, b.r.Error, b.r.Notes = job.Running, nil, nil, nil, []string{}
		b.r.Phase, b.r.OverallPercent = b.last(), 0
	}
	if u.DiskID == "" {
		b.r.OverallPercent = 0
	}
	b.r.Percent = nil
}

// order is the place of a phase among the phases of a job.
func order(p job.Phase) int {
	if i := slices.Index(job.Way(), p); i >= 0 {
		return i
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
	if n := len(b.r.Phases); n > 0 && b.r.Phases[n-1].EndedAt == nil {
		b.r.Phases[n-1].EndedAt = &now
	}
	if len(b.r.Phases) >= maxPhases {
		b.r.Phases = slices.Delete(b.r.Phases, 0, 1)
	}
	b.r.Phase = s.phase
	b.r.Phases = append(b.r.Phases, Phase{Name: s.phase, Round: 1, StartedAt: now})
	p := min(nearly, s.percent)
	b.r.Percent = &p
}

// find is the index of a disk; -1 if no update has named it.
func (b *ExternalBuilder) find(id job.DiskID) int {
	return slices.IndexFunc(b.r.Disks, func(d Disk) bool { return d.DiskID == id })
}

// disk takes an update of one disk. again says that the disk begins a new attempt.
func (b *ExternalBuilder) disk(id job.DiskID, u Update, again bool, now time.Time) {
	i := b.find(id)
	if i < 0 {
		b.r.Disks = append(b.r.Disks, Disk{
			DiskID: id, Label: string(id), Mode: b.r.Mode, Status: job.DiskPending, Attempt: 1,
		})
		i = len(b.r.Disks) - 1
		b.r.Percent = nil // it counts from here on
	}
	d := &b.r.Disks[i]
	status := externalStatuses[strings.ToLower(u.Status)]
	if u.TotalBytes != nil {
		d.BytesToTransfer, d.BytesCapacity = u.TotalBytes, *u.TotalBytes
	}
	if u.BytesTransferred != nil {
		n := *u.BytesTransferred
		if n < d.BytesTransferred && again {
			d.Attempt++
			d.Restarts++
			d.BytesTransferred, d.Percent = 0, nil
		}
		if n > d.BytesTransferred {
			d.LastByteAt = &now
		}
		d.BytesTransferred = max(d.BytesTransferred, n)
		d.BytesPerSecond = SpeedOf(b.speed(id, n, u, now))
		d.SampledAt = &now
	}
	d.Percent = raised(d.Percent, percentOf(u, d.BytesTransferred, d.BytesToTransfer), status == job.StatusCompleted)
	d.Status = diskStatus(status)
	if d.Status != job.DiskRunning {
		d.BytesPerSecond = nil
	}
	if u.ErrorMessage != "" {
		d.LastCause = &Error{Code: job.Internal, Message: clipped(u.ErrorMessage), Phase: b.r.Phase, At: now}
	}
	b.sum()
}

func diskStatus(s job.Status) job.DiskPhase {
	switch s {
	case job.StatusCompleted:
		return job.DiskDone
	case job.StatusFailed, job.StatusCancelled:
		return job.DiskFailed
	case job.Paused:
		return job.DiskPaused
	case job.Pending:
		return job.DiskPending
	default:
		return job.DiskRunning
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
	known := true
	b.r.BytesPerSecond = nil
	for _, d := range b.r.Disks {
		done = add(done, d.BytesTransferred)
		AddSpeed(&b.r.BytesPerSecond, d.BytesPerSecond)
		if d.BytesToTransfer == nil {
			known = false
			continue
		}
		total = add(total, *d.BytesToTransfer)
	}
	b.r.BytesTransferred = done
	if known {
		b.r.BytesToTransfer, b.r.BytesCapacity = &total, &total
		b.r.Percent = raised(b.r.Percent, percentOf(Update{}, done, &total), false)
	}
}

// whole takes an update of the whole job. Its numbers count only while no disk is known.
func (b *ExternalBuilder) whole(u Update, again bool, now time.Time) {
	if len(b.r.Disks) == 0 {
		if u.TotalBytes != nil {
			b.r.BytesToTransfer, b.r.BytesCapacity = u.TotalBytes, u.TotalBytes
		}
		if n := u.BytesTransferred; n != nil {
			if again {
				b.r.BytesTransferred = 0
			}
			b.r.BytesTransferred = max(b.r.BytesTransferred, *n)
			b.r.BytesPerSecond = SpeedOf(b.speed("", *n, u, now))
		}
		b.r.Percent = raised(b.r.Percent, percentOf(u, b.r.BytesTransferred, b.r.BytesToTransfer), false)
	}
	if u.ErrorMessage != "" {
		b.r.Error = &Error{Code: job.Internal, Message: clipped(u.ErrorMessage), Phase: b.r.Phase, At: now}
	}
}

// settle sets the job's status and what follows from it. Only an update without a disk ends the job.
func (b *ExternalBuilder) settle(u Update, now time.Time) {
	status, known := externalStatuses[strings.ToLower(u.Status)]
	if u.DiskID != "" && status.Terminal() {
		status, known = job.Running, true
	}
	switch {
	case known:
		b.r.Status = status
	case b.r.Status == job.Pending || b.r.Status.Terminal():
		b.r.Status = job.Running
	}
	if b.r.StartedAt == nil && b.r.Status != job.Pending {
		b.r.StartedAt = &now
	}
	b.r.BytesPerSecondPeak = max(b.r.BytesPerSecondPeak, SpeedOr0(b.r.BytesPerSecond))
	if b.r.Status.Terminal() {
		b.end(now)
		return
	}
	b.r.EndedAt = nil
	if b.r.Phase.Terminal() { // it failed and goes on
		b.r.Phase, b.r.Error = b.last(), nil
	}
	b.allow()
	b.pace(now)
	if b.r.Percent != nil {
		b.r.OverallPercent = max(b.r.OverallPercent, min(99, *b.r.Percent*0.99))
	}
}

// pace sets the average speed and the ETA of a job that has not ended. One that does not run has no speed.
func (b *ExternalBuilder) pace(now time.Time) {
	b.r.BytesPerSecondAverage, b.r.ETASeconds, b.r.ETAAt = nil, nil, nil
	if b.r.Status != job.Running {
		b.r.BytesPerSecond = nil
	}
	if b.r.BytesPerSecond == nil {
		return
	}
	b.r.BytesPerSecondAverage = b.r.BytesPerSecond
	if now.After(*b.r.StartedAt) {
		b.r.BytesPerSecondAverage = SpeedOf(float64(b.r.BytesTransferred) / now.Sub(*b.r.StartedAt).Seconds())
	}
	if n := b.r.BytesToTransfer; n != nil {
		b.r.ETASeconds, b.r.ETAAt = eta(*n-b.r.BytesTransferred, *b.r.BytesPerSecond, now)
	}
}

// end ends the job with its status.
func (b *ExternalBuilder) end(now time.Time) {
	if b.r.EndedAt == nil {
		b.r.EndedAt = &now
	}
	b.r.stand()
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
	b.allow()
}

// allow sets the verbs: a job that has not ended can be cancelled, and every one can be deleted.
func (b *ExternalBuilder) allow() {
	b.r.Allowed = []job.Verb{job.Cancel, job.Delete}
	if b.r.Status.Terminal() {
		b.r.Allowed = []job.Verb{job.Delete}
	}
}

// percentOf is computed from the bytes or, if their total is not known, taken from the update; nil if neither is known.
func percentOf(u Update, done int64, total *int64) *float64 {
	var p float64
	switch {
	case total != nil && *total > 0:
		p = 100 * (float64(done) / float64(*total))
	case u.Percent != nil:
		p = *u.Percent
	default:
		return nil
	}
	return &p
}

// raised is the higher one of two percents, at most 99.99 if it is not certain that nothing is missing. nil is unknown.
func raised(old, p *float64, certain bool) *float64 {
	if p == nil {
		return old
	}
	most := nearly
	if certain {
		most = 100
	}
	high := min(most, *p)
	if old != nil {
		high = max(high, min(most, *old))
	}
	return &high
}

// clipped is a text of at most maxMessage bytes.
func clipped(text string) string {
	const more = "..."
	if len(text) <= maxMessage {
		return text
	}
	cut := maxMessage - len(more)
	for cut > 0 && !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + more
}
