package cli

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// A running disk gets a line after this time, or this progress.
const (
	lineEvery   = 10 * time.Second
	linePercent = 5.0
)

// lines shows a job as plain lines, for logs and pipes: one for every change, and one for each running disk now and
// then.
type lines struct {
	w     io.Writer
	paint Paint
	job   report.Report
	disks map[job.DiskID]lineDisk
	any   bool
	old   bool // a line says that the numbers are old
}

// lineDisk is the state of a disk in its last line.
type lineDisk struct {
	at      time.Time
	percent float64
	status  job.DiskPhase
	attempt int
	round   int
}

func newLines(w io.Writer, p Paint) *lines {
	return &lines{w: w, paint: p, disks: map[job.DiskID]lineDisk{}}
}

func (l *lines) Show(r report.Report) error {
	now := r.ObservedAt
	if !l.any || r.Phase != l.job.Phase || r.Status != l.job.Status || r.Round != l.job.Round ||
		r.Cancelling != l.job.Cancelling {
		l.line(now, "%s  %s, round %d: %s", r.JobID, l.status(r), r.Round, r.Operation)
	}
	if !slices.Equal(r.Health, l.job.Health) && (l.any || len(r.Health) > 0) {
		l.line(now, "%s  %s", r.JobID, healthText(r.Health))
	}
	if was, w := l.job.Wait, r.Wait; w != nil && (was == nil || !was.Since.Equal(w.Since) || was.For != w.For) {
		l.line(r.ObservedAt, "%s  %s", r.JobID, OneLine(r.Operation))
	}
	for _, n := range newNotes(l.job.Notes, r.Notes) {
		l.line(now, "%s  %s", r.JobID, n)
	}
	if r.Error != nil && (l.job.Error == nil || *l.job.Error != *r.Error) {
		l.line(now, "%s  %s", r.JobID, l.paint.red(OneLine(r.Error.Message)))
	}
	for _, d := range r.Disks {
		l.disk(r, d)
	}
	l.job, l.any = r, true
	return nil
}

func (l *lines) status(r report.Report) string {
	if r.Cancelling {
		return fmt.Sprintf("%s %.1f%%", statusText(r), cut(r.OverallPercent, 1))
	}
	text := string(r.Status)
	if string(r.Phase) != text && r.Status == job.Running {
		text = string(r.Phase)
	}
	return fmt.Sprintf("%s %.1f%%", text, cut(r.OverallPercent, 1))
}

func (l *lines) disk(r report.Report, d report.Disk) {
	was, known := l.disks[d.DiskID]
	percent := 0.0
	if d.Percent != nil {
		percent = *d.Percent
	}
	changed := !known && d.Status != job.DiskPending || known &&
		(d.Status != was.status || d.Attempt != was.attempt || r.Round != was.round && d.Status != job.DiskPending)
	moving := d.Status == job.DiskRunning && known &&
		(r.ObservedAt.Sub(was.at) >= lineEvery || percent >= was.percent+linePercent)
	if !changed && !moving {
		return
	}
	l.disks[d.DiskID] = lineDisk{r.ObservedAt, percent, d.Status, d.Attempt, r.Round}
	text := fmt.Sprintf("%s  %s %s %s of %s, %s, eta %s", r.JobID, d.DiskID, PercentText(d.Percent),
		sizeText(d.BytesTransferred+d.BytesSkipped), sizePointerText(d.BytesToTransfer), speedText(d.BytesPerSecond),
		etaText(d.ETASeconds))
	if d.Status != job.DiskRunning {
		text = fmt.Sprintf("%s  %s %s, %s of %s", r.JobID, d.DiskID, d.Status,
			sizeText(d.BytesTransferred+d.BytesSkipped), sizePointerText(d.BytesToTransfer))
	}
	if d.Restarts > 0 {
		text += fmt.Sprintf(", restarts %d", d.Restarts)
	}
	if inTrouble(d) {
		text += l.paint.because(d.LastCause)
	}
	l.line(r.ObservedAt, "%s", text)
}

func (l *lines) line(at time.Time, format string, args ...any) {
	fmt.Fprintf(l.w, "%s  %s\n", at.Local().Format("15:04:05"), fmt.Sprintf(format, args...))
}

func (l *lines) Say(text string) { fmt.Fprintln(l.w, text) }

// Tick writes one line when the numbers have become old.
func (l *lines) Tick(now time.Time, age time.Duration) {
	if text := oldText(age); text != "" && !l.old {
		l.line(now, "%s  %s", l.job.JobID, text)
	}
	l.old = age > oldAfter
}

func (*lines) Close() {}
