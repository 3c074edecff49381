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

// bars shows each job as one line, and below it a bar for each disk. Words scroll above. It repaints in place with the
// sequences "up" and "clear" only, which work on every terminal and do not change the scrollback.
type bars struct {
	w     io.Writer
	size  func() (columns, rows int) // of the terminal; 0 for unknown
	paint Paint
	jobs  []report.Report // in the order in which they came first
	drawn []int           // columns of each of our lines on the screen
	lost  time.Time       // since when the daemon does not answer; zero while it does
	now   time.Time
	age   time.Duration // of the numbers
}

func newBars(w io.Writer, columns int, p Paint) *bars {
	return &bars{w: w, paint: p, size: func() (int, int) {
		if c, r, ok := TerminalSize(w); ok {
			return c, r
		}
		return columns, 0
	}}
}

func (b *bars) Show(r report.Report) error {
	i := slices.IndexFunc(b.jobs, func(x report.Report) bool { return x.JobID == r.JobID })
	if i < 0 {
		i = len(b.jobs)
		b.jobs = append(b.jobs, report.Report{JobID: r.JobID, Health: r.Health})
	}
	for _, line := range b.news(b.jobs[i], r) {
		b.Say(line)
	}
	b.jobs[i], b.now, b.age = r, r.ObservedAt, 0
	b.draw()
	return nil
}

// news is what scrolls: changes since the report before, which is empty the first time.
func (b *bars) news(before, r report.Report) []string {
	first := before.Seq == 0
	at := b.paint.dim(r.ObservedAt.Local().Format("15:04:05"))
	if len(b.jobs) > 1 {
		at += "  " + vmText(r.VM)
	}
	var out []string
	if !first && !slices.Equal(r.Health, before.Health) && !Ended(r) {
		out = append(out, at+"  "+b.paint.Yellow(healthText(r.Health)))
	}
	for _, n := range newNotes(before.Notes, r.Notes) {
		out = append(out, at+"  "+n)
	}
	if r.Error != nil && (before.Error == nil || *before.Error != *r.Error) {
		out = append(out, at+"  "+b.paint.red(OneLine(r.Error.Message)))
	}
	for _, d := range r.Disks {
		i := slices.IndexFunc(before.Disks, func(x report.Disk) bool { return x.DiskID == d.DiskID })
		if i < 0 {
			continue
		}
		was := before.Disks[i]
		if d.Status != was.Status && inTrouble(d) {
			out = append(out, fmt.Sprintf("%s  %s %s%s", at, diskName(d), d.Status, b.paint.because(d.LastCause)))
		}
		if r.Round == before.Round && d.Attempt > was.Attempt && d.Status == job.DiskRunning &&
			(was.Status == job.DiskBackoff || d.Restarts > was.Restarts) {
			out = append(out, fmt.Sprintf("%s  %s goes on after restart %d, from %s", at, diskName(d), d.Restarts,
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

// Lost is told that the daemon does not answer. The numbers on the screen are old from then on.
func (b *bars) Lost(since time.Time, why error) {
	b.Say(b.paint.dim(since.Local().Format("15:04:05")) + "  " + b.paint.red(lostText(why)))
	b.lost = since
	b.draw()
}

// Back is told that the daemon answers again.
func (b *bars) Back(now time.Time) {
	since := b.lost
	b.lost = time.Time{}
	b.Say(b.paint.dim(now.Local().Format("15:04:05")) + "  " + b.paint.green(backText(now.Sub(since))))
}

func (b *bars) Tick(now time.Time, age time.Duration) {
	if len(b.jobs) > 0 && (now.Sub(b.now) > time.Second || b.resized()) {
		b.now, b.age = now, age
		b.draw()
	}
}

// resized says whether the picture on the screen was made for another width.
func (b *bars) resized() bool {
	columns, _ := b.size()
	return len(b.drawn) > 0 && slices.Max(b.drawn) > columns
}

// Close leaves the last picture on the screen; later words go below.
func (b *bars) Close() {
	b.draw()
	b.drawn, b.jobs = nil, nil
}

// clear removes our lines from the screen. A terminal that has become narrower shows a line in several rows.
func (b *bars) clear() {
	columns, _ := b.size()
	rows := 0
	for _, n := range b.drawn {
		rows += max(1, (n+columns-1)/max(1, columns))
	}
	if rows > 0 {
		fmt.Fprintf(b.w, "\x1b[%dA\r\x1b[J", rows)
	}
	b.drawn = nil
}

func (b *bars) draw() {
	if len(b.jobs) == 0 {
		return
	}
	columns, rows := b.size()
	text := renderJobs(b.jobs, picture{
		columns: columns, rows: rows, now: b.now, lost: b.lost, age: b.age, paint: b.paint,
	})
	b.clear()
	for _, l := range text {
		fmt.Fprintln(b.w, l.text)
		b.drawn = append(b.drawn, l.columns)
	}
}

// picture says how jobs are drawn.
type picture struct {
	columns, rows int           // rows 0: as many as needed
	now           time.Time     // for the time that a job has taken
	lost          time.Time     // since when the daemon does not answer; zero while it does
	age           time.Duration // of the numbers
	paint         Paint
}

// drawnLine is one line on the screen: its text with colours, and the columns that it takes.
type drawnLine struct {
	text    string
	columns int
}

// renderJobs is the picture of jobs: for each a headline, then a line for each disk. No line is wider than the
// terminal.
// If the terminal has too few rows, jobs are shown without their disks, and of many jobs those that have not ended
// first.
func renderJobs(jobs []report.Report, p picture) []drawnLine {
	var out []drawnLine
	most := p.rows - 1 // the cursor stands below the picture
	need := 0
	for _, r := range jobs {
		need += 1 + len(r.Disks)
		for _, d := range r.Disks {
			if inTrouble(d) {
				need++
			}
		}
	}
	disks := p.rows == 0 || need <= most
	if !disks && len(jobs) > most {
		jobs = slices.Clone(jobs)
		slices.SortStableFunc(jobs, func(x, y report.Report) int { return ended01(x) - ended01(y) })
		jobs = jobs[:max(1, most)]
	}
	for _, r := range jobs {
		out = append(out, renderHead(r, p))
		if disks || len(jobs) == 1 {
			lines := renderDisks(r.Disks, p)
			if !disks {
				lines = lines[:max(0, min(len(lines), most-1))]
			}
			out = append(out, lines...)
		}
	}
	return out
}

func ended01(r report.Report) int {
	if Ended(r) {
		return 1
	}
	return 0
}

// renderHead is the headline of a job. Its parts are left out from the end if they do not fit.
func renderHead(r report.Report, p picture) drawnLine {
	parts, trouble := headParts(r, p), len(r.Health) > 0 || !p.lost.IsZero() || p.age > oldAfter
	state, colour := headState(r, p)
	for {
		head := strings.Join(parts, "  ")
		n := width(head)
		switch {
		case state != "" && n+2+width(state) <= p.columns:
			return drawnLine{p.paint.Bold(head) + "  " + colour(state), n + 2 + width(state)}
		case state != "" && len(parts) > 3 && trouble: // it matters more
			parts = parts[:len(parts)-1]
		case n <= p.columns:
			return drawnLine{p.paint.Bold(head), n}
		case len(parts) > 1:
			parts = parts[:len(parts)-1]
		default:
			head = Clip(head, p.columns)
			return drawnLine{p.paint.Bold(head), width(head)}
		}
	}
}

// headParts are the parts of a headline, the most important first.
func headParts(r report.Report, p picture) []string {
	words := string(r.Phase)
	switch {
	case r.Status == job.Paused:
		words = string(job.Paused)
	case r.Cancelling && !Ended(r):
		words = statusText(r)
	}
	parts := []string{vmText(r.VM), words, fmt.Sprintf("%.1f%%", cut(r.OverallPercent, 1))}
	if r.Round > 1 {
		parts = append(parts, fmt.Sprintf("round %d", r.Round))
	}
	switch {
	case Ended(r):
		parts = append(parts, movedText(r))
	case !p.lost.IsZero():
	default:
		if r.BytesPerSecond != nil {
			parts = append(parts, speedText(r.BytesPerSecond))
		}
		if r.ETASeconds != nil {
			parts = append(parts, "eta "+etaText(r.ETASeconds))
		}
	}
	if r.StartedAt == nil {
		return parts
	}
	end := p.now
	if r.EndedAt != nil {
		end = *r.EndedAt
	}
	return append(parts, "for "+durationText(end.Sub(*r.StartedAt)))
}

// headState is the end of a headline: what holds the job up, or its health; "" for a job that has ended.
func headState(r report.Report, p picture) (text string, colour func(string) string) {
	switch {
	case Ended(r):
		return "", p.paint.green
	case !p.lost.IsZero():
		return "no answer from the daemon for " + durationText(p.now.Sub(p.lost)), p.paint.red
	case oldText(p.age) != "" && ageOf(r, r.ObservedAt.Add(p.age)) > 0:
		return oldText(p.age), p.paint.Yellow
	case r.Wait != nil:
		return waitText(*r.Wait, p.now), p.paint.Yellow
	case len(r.Health) > 0:
		return healthText(r.Health), p.paint.Yellow
	default:
		return healthText(r.Health), p.paint.green
	}
}

// movedText says what a job has moved in all its rounds.
func movedText(r report.Report) string {
	moved, skipped := r.BytesTransferred, r.BytesSkipped
	if len(r.Rounds) > 0 {
		moved, skipped = 0, 0
		for _, o := range r.Rounds {
			moved += o.BytesTransferred
			skipped += o.BytesSkipped
		}
	}
	text := sizeText(moved) + " moved"
	if skipped > 0 {
		text += ", " + sizeText(skipped) + " skipped"
	}
	if len(r.Rounds) > 1 {
		text += fmt.Sprintf(", in %d rounds", len(r.Rounds))
	}
	return text
}

// diskName is what people call a disk: its label, or its id if it has none.
func diskName(d report.Disk) string {
	if d.Label != "" {
		return OneLine(d.Label)
	}
	return OneLine(string(d.DiskID))
}

// Widths of the line of a disk.
const (
	leastBar  = 8  // a narrower bar tells nothing
	wishedBar = 20 // cells are left out for that
	leastName = 6
)

// renderDisks draws the lines of a job's disks. Their columns are aligned. The bar takes the width that is left; if it
// is too little, columns are left out: first what is moved, then the restarts, the ETA, and the speed.
func renderDisks(disks []report.Disk, p picture) []drawnLine {
	rows := make([][]string, len(disks)) // percent, moved, speed or status, eta, restarts
	names, most := make([]string, len(disks)), make([]int, cellCount)
	nameWidth := 0
	for i, d := range disks {
		names[i], rows[i] = diskName(d), diskCells(d, p)
		nameWidth = max(nameWidth, width(names[i]))
		for k, cell := range rows[i] {
			most[k] = max(most[k], width(cell))
		}
	}
	nameWidth = min(nameWidth, max(leastName, p.columns/4))
	shown := []bool{true, true, true, true, true}
	right := func() (n int) {
		for k, on := range shown {
			if on && most[k] > 0 {
				n += 2 + most[k]
			}
		}
		return n
	}
	room := func() int { return p.columns - nameWidth - 3 - right() } // a space and two brackets
	for _, k := range []int{cellMoved, cellRestarts, cellETA, cellState} {
		if room() < min(wishedBar, max(leastBar, p.columns/5)) {
			shown[k] = false
		}
	}
	var out []drawnLine
	for i, d := range disks {
		out = append(out, renderDisk(d, names[i], rows[i], diskLayout{nameWidth, room(), shown, most}, p)...)
	}
	return out
}

// The cells at the end of a disk's line.
const (
	cellPercent = iota
	cellMoved
	cellState
	cellETA
	cellRestarts
	cellCount
)

func diskCells(d report.Disk, p picture) []string {
	cells := make([]string, cellCount)
	cells[cellPercent] = PercentText(d.Percent)
	cells[cellMoved] = sizeText(d.BytesTransferred+d.BytesSkipped) + " of " + sizePointerText(d.BytesToTransfer)
	if n := d.BytesToTransfer; n != nil && *n == 0 {
		cells[cellMoved] = "nothing to move"
	}
	cells[cellState] = string(d.Status)
	if d.Status == job.DiskRunning && p.lost.IsZero() {
		cells[cellState] = speedText(d.BytesPerSecond)
		if d.ETASeconds != nil {
			cells[cellETA] = "eta " + etaText(d.ETASeconds)
		}
	}
	if d.Restarts > 0 {
		cells[cellRestarts] = fmt.Sprintf("restarts %d", d.Restarts)
	}
	return cells
}

// diskLayout is what the lines of all disks of a job have in common.
type diskLayout struct {
	name, bar int    // columns
	shown     []bool // cells
	most      []int  // columns of each cell
}

// renderDisk draws the line of a disk, and below it why it is in trouble.
func renderDisk(d report.Disk, name string, cells []string, l diskLayout, p picture) []drawnLine {
	name = clipMiddle(name, l.name)
	left := name + strings.Repeat(" ", max(0, l.name-width(name)))
	right := ""
	for k, cell := range cells {
		if l.shown[k] && l.most[k] > 0 {
			right += "  " + strings.Repeat(" ", l.most[k]-width(cell)) + cell
		}
	}
	if l.bar < leastBar {
		text := Clip(left+strings.TrimRight(right, " "), p.columns)
		return []drawnLine{{text, width(text)}}
	}
	share := 0.0
	if d.Percent != nil {
		share = min(1, max(0, *d.Percent/100))
	}
	full := min(l.bar, int(share*float64(l.bar)))
	bar := strings.Repeat("#", full) + strings.Repeat(".", l.bar-full)
	right = strings.TrimRight(right, " ")
	lines := []drawnLine{{left + " [" + barColour(d, p)(bar) + "]" + right, width(left) + 3 + l.bar + width(right)}}
	if text := causeText(d.LastCause); text != "" && inTrouble(d) {
		text = Clip(text, p.columns-l.name-1)
		lines = append(lines, drawnLine{strings.Repeat(" ", l.name+1) + p.paint.dim(text), l.name + 1 + width(text)})
	}
	return lines
}

func barColour(d report.Disk, p picture) func(string) string {
	if !p.lost.IsZero() {
		return p.paint.dim
	}
	switch d.Status {
	case job.DiskDone, job.DiskCopied:
		return p.paint.green
	case job.DiskBackoff, job.DiskPaused:
		return p.paint.Yellow
	case job.DiskFailed:
		return p.paint.red
	case job.DiskPending, job.DiskRunning, job.DiskVerifying:
	}
	return p.paint.blue
}
