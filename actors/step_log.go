package actors

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// stepLog writes a line for each reported step: at info for each phase of a job and each new state of a disk, at debug
// while only numbers change. It is a sink like others, so it reads the reports that are made anyway, in a goroutine of
// its own, and nothing waits for the log. It is not shown among the sinks.
type stepLog struct {
	log     *slog.Logger
	every   time.Duration
	percent float64
	since   time.Time
	mu      sync.Mutex               // never held while a line is written
	seen    map[job.ID]report.Report // the last one of each job
}

const (
	stepEvery   = 2 * time.Second
	stepPercent = 1.0
)

func newStepLog(log *slog.Logger, every time.Duration, percent float64, now time.Time) *stepLog {
	return &stepLog{
		log: log, every: cmp.Or(every, stepEvery), percent: cmp.Or(percent, stepPercent), since: now,
		seen: map[job.ID]report.Report{},
	}
}

func (*stepLog) Name() string { return "log" }

// Pace is that of the reports in the journal.
func (l *stepLog) Pace() (time.Duration, float64) { return l.every, l.percent }

// Publish writes the lines of these reports.
func (l *stepLog) Publish(ctx context.Context, reports []report.Report) error {
	for _, r := range reports {
		was, known := l.last(r.JobID)
		if known && !was.Version().Less(r.Version()) {
			continue
		}
		l.phases(ctx, r, was, known)
		for _, d := range r.Disks {
			l.disk(ctx, r, d, diskOf(was, d.DiskID))
		}
		l.keep(r)
	}
	return nil
}

func (l *stepLog) last(id job.ID) (report.Report, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := l.seen[id]
	return r, ok
}

func (l *stepLog) keep(r report.Report) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Status.Terminal() {
		r = ended(r)
	}
	l.seen[r.JobID] = r
}

// Forget drops a job that was deleted.
func (l *stepLog) Forget(id job.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.seen, id)
}

// ended is what is kept of the report of a job that has ended: enough to know its next phase.
func ended(r report.Report) report.Report {
	return report.Report{
		JobID: r.JobID, Epoch: r.Epoch, Seq: r.Seq, Phase: r.Phase, Status: r.Status,
		Phases: make([]report.Phase, len(r.Phases)),
	}
}

// phases writes a line for each phase that began since the last report. Of a job of before the start of the daemon it
// writes the current phase, unless the job has ended.
func (l *stepLog) phases(ctx context.Context, r, was report.Report, known bool) {
	first := len(was.Phases)
	switch {
	case !known && r.Status.Terminal() && r.CreatedAt.Before(l.since):
		return
	case !known && r.CreatedAt.Before(l.since):
		first = max(0, len(r.Phases)-1)
	}
	for i := first; i < len(r.Phases); i++ {
		stage := r.Phases[i].Name
		if i < len(r.Phases)-1 { // its numbers have passed
			l.log.LogAttrs(ctx, slog.LevelInfo, "step", slog.String("job_id", string(r.JobID)),
				slog.String("vm", r.VM.Name), slog.String("stage", string(stage)))
			continue
		}
		l.job(ctx, slog.LevelInfo, r)
	}
	if len(r.Phases) == len(was.Phases) && (r.Phase != was.Phase || r.Status != was.Status) {
		l.job(ctx, slog.LevelInfo, r) // paused, resumed, failed with its actor; all of another tool
	}
}

// job writes the line of a whole job.
func (l *stepLog) job(ctx context.Context, level slog.Level, r report.Report) {
	attrs := []slog.Attr{
		slog.String("job_id", string(r.JobID)), slog.String("vm", r.VM.Name), slog.String("stage", string(r.Phase)),
		slog.String("status", string(r.Status)), slog.Int("round", r.Round), slog.Float64("percent", r.OverallPercent),
		slog.Int64("bytes_transferred", r.BytesTransferred), known("total_bytes", r.BytesToTransfer),
		slog.Int64("throughput_bps", int64(report.SpeedOr0(r.BytesPerSecond))),
	}
	if e := r.Error; e != nil {
		attrs = append(attrs, slog.String("kind", string(e.Code)), slog.String("err", e.Message))
	}
	l.log.LogAttrs(ctx, level, "step", attrs...)
}

// disk writes the line of one disk, if something of it has changed.
func (l *stepLog) disk(ctx context.Context, r report.Report, d, was report.Disk) {
	level := slog.LevelInfo
	if d.Status == was.Status && d.Attempt == was.Attempt || d.Status == job.DiskPending && was.DiskID == "" {
		if level = slog.LevelDebug; d.BytesTransferred == was.BytesTransferred &&
			d.BytesSkipped == was.BytesSkipped && d.BytesVerified == was.BytesVerified {
			return
		}
	}
	if was.DiskID == "" && r.Status.Terminal() || !l.log.Enabled(ctx, level) {
		return
	}
	l.log.LogAttrs(ctx, level, "step", slog.String("job_id", string(r.JobID)), slog.String("vm", r.VM.Name),
		slog.String("disk", string(d.DiskID)), slog.String("stage", string(r.Phase)),
		slog.String("status", string(d.Status)), slog.Int("attempt", d.Attempt), known("percent", d.Percent),
		slog.Int64("bytes_transferred", d.BytesTransferred), known("total_bytes", d.BytesToTransfer),
		slog.Int64("throughput_bps", int64(report.SpeedOr0(d.BytesPerSecond))))
}

// known is an attribute that is null while its value is not known.
func known[T any](key string, v *T) slog.Attr {
	if v == nil {
		return slog.Any(key, nil)
	}
	return slog.Any(key, *v)
}

func diskOf(r report.Report, id job.DiskID) report.Disk {
	for _, d := range r.Disks {
		if d.DiskID == id {
			return d
		}
	}
	return report.Disk{}
}
