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
	lost  time.Time // since when the daemon does not answer
	old   bool      // the numbers are old, and that was said
	w     io.Writer
	paint Paint
	jobs  map[job.ID]report.Report // the last ones
	disks map[lineKey]lineDisk
}

// lineKey names a disk of a job.
type lineKey struct {
	job  job.ID
	disk job.DiskID
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
	return &lines{w: w, paint: p, jobs: map[job.ID]report.Report{}, disks: map[lineKey]lineDisk{}}
}

func (l *lines) Show(r report.Report) error {
	now := r.ObservedAt
	before, known := l.jobs[r.JobID]
	if !known || r.Phase != before.Phase || r.Status != before.Status || r.Round != before.Round ||
		r.Cancelling != before.Cancelling {
		round := ""
		if r.Round > 0 {
			round = fmt.Sprintf(", round %d", r.Round)
		}
		l.line(now, "%s  %s%s: %s", r.JobID, l.status(r), round, OneLine(r.Operation))
	}
	if !slices.Equal(r.Health, before.Health) && (known || len(r.Health) > 0) && !Ended(r) {
		l.line(now, "%s  %s", r.JobID, healthText(r.Health))
	}
	if was, w := before.Wait, r.Wait; w != nil && (was == nil || !was.Since.Equal(w.Since) || was.For != w.For) {
		l.line(now, "%s  %s", r.JobID, OneLine(r.Operation))
	}
	for _, n := range newNotes(before.Notes, r.Notes) {
		l.line(now, "%s  %s", r.JobID, n)
	}
	if r.Error != nil && (before.Error == nil || *before.Error != *r.Error) {
		l.line(now, "%s  %s", r.JobID, l.paint.red(OneLine(r.Error.Message)))
	}
	for _, d := range r.Disks {
		l.disk(r, d)
	}
	l.jobs[r.JobID] = r
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
	key := lineKey{r.JobID, d.DiskID}
	was, known := l.disks[key]
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
	l.disks[key] = lineDisk{r.ObservedAt, percent, d.Status, d.Attempt, r.Round}
	text := fmt.Sprintf("%s  %s %s %s of %s, %s, eta %s", r.JobID, OneLine(string(d.DiskID)), PercentText(d.Percent),
		sizeText(d.BytesTransferred+d.BytesSkipped), sizePointerText(d.BytesToTransfer), speedText(d.BytesPerSecond),
		etaText(d.ETASeconds))
	if d.Status != job.DiskRunning {
		text = fmt.Sprintf("%s  %s %s, %s of %s", r.JobID, OneLine(string(d.DiskID)), d.Status,
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

// Lost is told that the daemon does not answer.
func (l *lines) Lost(since time.Time, why error) {
	l.lost = since
	l.line(since, "%s", l.paint.red(lostText(why)))
}

// Back is told that the daemon answers again.
func (l *lines) Back(now time.Time) { l.line(now, "%s", l.paint.green(backText(now.Sub(l.lost)))) }

func (l *lines) Say(text string) { fmt.Fprintln(l.w, text) }

// Tick writes one line when the numbers have become old.
func (l *lines) Tick(now time.Time, age time.Duration) {
	if text := oldText(age); text != "" && !l.old {
		l.line(now, "%s", text)
	}
	l.old = age > oldAfter
}

func (*lines) Close() {}
