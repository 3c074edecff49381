package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// bars shows a job as one line, and below it a bar for each disk. Words scroll above. It repaints in place with the
// sequences "up" and "clear" only, which work on every terminal and do not change the scrollback.
type bars struct {
	w       io.Writer
	columns int
	paint   Paint
	job     report.Report
	any     bool
	drawn   int // lines of ours on the screen
	now     time.Time
}

func newBars(w io.Writer, columns int, p Paint) *bars { return &bars{w: w, columns: columns, paint: p} }

func (b *bars) Show(r report.Report) error {
	for _, line := range b.news(r) {
		b.Say(line)
	}
	b.job, b.any, b.now = r, true, r.ObservedAt
	b.draw()
	return nil
}

// news is what scrolls: changes since the last report.
func (b *bars) news(r report.Report) []string {
	var out []string
	at := b.paint.dim(r.ObservedAt.Local().Format("15:04:05"))
	if b.any && !slices.Equal(r.Health, b.job.Health) {
		out = append(out, at+"  "+b.paint.Yellow(healthText(r.Health)))
	}
	for _, n := range newNotes(b.job.Notes, r.Notes) {
		out = append(out, at+"  "+n)
	}
	if r.Error != nil && (b.job.Error == nil || *b.job.Error != *r.Error) {
		out = append(out, at+"  "+b.paint.red(OneLine(r.Error.Message)))
	}
	for i, d := range r.Disks {
		known := b.any && i < len(b.job.Disks)
		if known && d.Status != b.job.Disks[i].Status && inTrouble(d) {
			out = append(out, fmt.Sprintf("%s  %s %s%s", at, d.DiskID, d.Status, b.paint.because(d.LastCause)))
		}
		if known && d.Attempt > b.job.Disks[i].Attempt && d.Restarts > 0 && d.Status == job.DiskRunning {
			out = append(out, fmt.Sprintf("%s  %s goes on after restart %d, from %s", at, d.DiskID, d.Restarts,
				sizeText(d.BytesTransferred+d.BytesSkipped)))
		}
	}
	return out
}

func (b *bars) Say(text string) {
	b.clear()
	fmt.Fprintln(b.w, text)
	b.draw()
}

func (b *bars) Tick(now time.Time) {
	if b.any && now.Sub(b.now) > time.Second {
		b.now = now
		b.draw()
	}
}

// Close leaves the last picture on the screen; later words go below.
func (b *bars) Close() {
	b.draw()
	b.drawn, b.any = 0, false
}

func (b *bars) clear() {
	if b.drawn > 0 {
		fmt.Fprintf(b.w, "\x1b[%dA\x1b[J", b.drawn)
		b.drawn = 0
	}
}

func (b *bars) draw() {
	if !b.any {
		return
	}
	if c, ok := Terminal(b.w); ok {
		b.columns = c
	}
	text := renderBars(b.job, b.now, b.columns, b.paint)
	b.clear()
	fmt.Fprint(b.w, strings.Join(text, "\n")+"\n")
	b.drawn = len(text)
}

// renderBars is the picture: a headline, then one line for each disk. No line is wider than columns.
func renderBars(r report.Report, now time.Time, columns int, p Paint) []string {
	words := string(r.Phase)
	if r.Status == job.Paused {
		words = string(job.Paused)
	}
	head := fmt.Sprintf("%s  %s  round %d  %.1f%%  %s", vmText(r.VM), words, r.Round, cut(r.OverallPercent, 1),
		speedText(r.BytesPerSecond))
	if r.ETASeconds != nil {
		head += "  eta " + etaText(r.ETASeconds)
	}
	if r.StartedAt != nil {
		end := now
		if r.EndedAt != nil {
			end = *r.EndedAt
		}
		head += "  for " + durationText(end.Sub(*r.StartedAt))
	}
	health := healthText(r.Health)
	room := columns - len([]rune(head)) - 2
	head = p.Bold(Clip(head, columns))
	switch {
	case room < len(health):
	case len(r.Health) > 0:
		head += "  " + p.Yellow(health)
	default:
		head += "  " + p.green(health)
	}
	out := []string{head}
	for _, d := range r.Disks {
		out = append(out, renderDisk(d, columns, p))
	}
	return out
}

func renderDisk(d report.Disk, columns int, p Paint) string {
	right := fmt.Sprintf(" %6s  %s/%s  %s", PercentText(d.Percent), sizeText(d.BytesTransferred+d.BytesSkipped),
		sizePointerText(d.BytesToTransfer), diskWords(d))
	left := fmt.Sprintf("%-10s ", d.DiskID)
	width := min(30, columns-len([]rune(left))-2-len([]rune(right)))
	if width < 5 {
		return Clip(left+strings.TrimSpace(right), columns)
	}
	share := 0.0
	if d.Percent != nil {
		share = *d.Percent / 100
	}
	full := min(width, int(share*float64(width)))
	bar := strings.Repeat("#", full) + strings.Repeat(".", width-full)
	colour := p.blue
	switch d.Status {
	case job.DiskDone, job.DiskCopied:
		colour = p.green
	case job.DiskBackoff, job.DiskPaused:
		colour = p.Yellow
	case job.DiskFailed:
		colour = p.red
	case job.DiskPending, job.DiskRunning, job.DiskVerifying:
	}
	line := left + "[" + colour(bar) + "]" + right
	if cause := causeText(d.LastCause); cause != "" {
		if room := columns - len([]rune(left)) - width - 2 - len([]rune(right)) - 2; room > 10 {
			line += "  " + p.dim(Clip(cause, room))
		}
	}
	return line
}

// diskWords is the end of a disk's line: its speed, or its status if it does not run.
func diskWords(d report.Disk) string {
	text := string(d.Status)
	if d.Status == job.DiskRunning {
		text = speedText(d.BytesPerSecond) + "  eta " + etaText(d.ETASeconds)
	}
	if d.Restarts > 0 {
		text += fmt.Sprintf("  restarts %d", d.Restarts)
	}
	return text
}
