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
	// of each disk, as of the attempt that was shown last
	restarts map[job.DiskID]int
	drawn    int // lines of ours on the screen
	now      time.Time
	age      time.Duration // of the numbers
}

func newBars(w io.Writer, columns int, p Paint) *bars {
	return &bars{w: w, columns: columns, paint: p, restarts: map[job.DiskID]int{}}
}

func (b *bars) Show(r report.Report) error {
	for _, line := range b.news(r) {
		b.Say(line)
	}
	b.job, b.any, b.now, b.age = r, true, r.ObservedAt, 0
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
		// Each round begins with attempt 1, and a pause makes no restart.
		if known && d.Restarts > b.restarts[d.DiskID] && d.Status == job.DiskRunning {
			out = append(out, fmt.Sprintf("%s  %s goes on after restart %d, from %s", at, d.DiskID, d.Restarts,
				sizeText(d.BytesTransferred+d.BytesSkipped)))
		}
		if d.Status == job.DiskRunning || !known {
			b.restarts[d.DiskID] = d.Restarts
		}
	}
	return out
}

func (b *bars) Say(text string) {
	b.clear()
	fmt.Fprintln(b.w, text)
	b.draw()
}

func (b *bars) Tick(now time.Time, age time.Duration) {
	if b.any && now.Sub(b.now) > time.Second {
		b.now, b.age = now, age
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
	if old := oldText(b.age); old != "" {
		text = append(text, b.paint.Yellow(Clip(old, b.columns)))
	}
	b.clear()
	fmt.Fprint(b.w, strings.Join(text, "\n")+"\n")
	b.drawn = len(text)
}

// renderBars is the picture: a headline, then one line for each disk. No line is wider than columns.
func renderBars(r report.Report, now time.Time, columns int, p Paint) []string {
	words := string(r.Phase)
	if r.Status == job.Paused || r.Cancelling {
		words = statusText(r)
	}
	head := fmt.Sprintf("%s  %s  round %d  %.1f%%  %s", vmText(r.VM), words, r.Round, cut(r.OverallPercent, 1),
		speedText(r.BytesPerSecond))
	if Ended(r) {
		head = fmt.Sprintf("%s  %s  round %d  %.1f%%  %s moved in all", vmText(r.VM), words, r.Round,
			cut(r.OverallPercent, 1), sizeText(movedInAll(r)))
	}
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
	if Ended(r) {
		health = ""
	}
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

// movedInAll is what all rounds have moved.
func movedInAll(r report.Report) (n int64) {
	for _, o := range r.Rounds {
		n += o.BytesTransferred
	}
	if len(r.Rounds) == 0 {
		n = r.BytesTransferred
	}
	return n
}

func renderDisk(d report.Disk, columns int, p Paint) string {
	bytes := sizeText(d.BytesTransferred+d.BytesSkipped) + "/" + sizePointerText(d.BytesToTransfer)
	if n := d.BytesToTransfer; n != nil && *n == 0 {
		bytes = "nothing to move"
	}
	right := fmt.Sprintf(" %6s  %s  %s", PercentText(d.Percent), bytes, diskWords(d))
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
