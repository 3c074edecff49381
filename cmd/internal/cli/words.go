package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mattn/go-runewidth"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// unknown is written in place of an unknown number.
const unknown = "-"

// PercentText is a percentage with one decimal, or "-" for nil.
func PercentText(p *float64) string {
	if p == nil {
		return unknown
	}
	return fmt.Sprintf("%.1f%%", cut(*p, 1))
}

// cut drops decimals without rounding up: 99.96 is not 100.0.
func cut(p float64, decimals int) float64 {
	scale := 1.0
	for range decimals {
		scale *= 10
	}
	return float64(int64(p*scale)) / scale
}

func sizeText(n int64) string { return job.FormatSize(n) }

func sizePointerText(n *int64) string {
	if n == nil {
		return unknown
	}
	return sizeText(*n)
}

func speedText(bps *float64) string {
	if bps == nil || *bps < 1 {
		return unknown
	}
	return sizeText(int64(*bps)) + "/s"
}

func etaText(s *int64) string {
	if s == nil {
		return unknown
	}
	return durationText(time.Duration(*s) * time.Second)
}

// durationText writes 42s, 3m07s, 2h05m, 3d04h.
func durationText(d time.Duration) string {
	d = max(0, d)
	s := int64(d.Seconds())
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	default:
		return fmt.Sprintf("%dd%02dh", s/86400, s%86400/3600)
	}
}

// statusText is a job's status; a cancel that was received shows until the job has ended.
func statusText(r report.Report) string {
	if r.Cancelling {
		return "cancelling"
	}
	return string(r.Status)
}

func healthText(h []report.Health) string {
	if len(h) == 0 {
		return "healthy"
	}
	words := make([]string, len(h))
	for i, x := range h {
		words[i] = string(x)
	}
	return strings.Join(words, ",")
}

func timeText(t *time.Time) string {
	if t == nil || t.IsZero() {
		return unknown
	}
	return t.UTC().Format(time.RFC3339)
}

// waitText says for what a job waits, and how long it has waited.
func waitText(w report.Wait, now time.Time) string {
	text := "waits for the " + w.For + " for " + durationText(now.Sub(w.Since))
	if w.Until != nil {
		text += " of " + durationText(w.Until.Sub(w.Since))
	}
	return text
}

// lostText says that the daemon does not answer, and backText that it answers again.
func lostText(why error) string {
	for inner := errors.Unwrap(why); inner != nil; inner = errors.Unwrap(why) {
		why = inner // the address is known, and the line is short
	}
	return "the daemon does not answer (" + OneLine(why.Error()) + "); its jobs go on when it is back"
}

func backText(after time.Duration) string {
	return "the daemon is back after " + durationText(after)
}

// vmText is the name of a VM, or its path if the name is unknown.
func vmText(v report.VM) string {
	switch {
	case v.Name != "":
		return OneLine(v.Name)
	case v.Path != "":
		return OneLine(v.Path)
	default:
		return unknown
	}
}

// causeText is an error in one line; empty for nil.
func causeText(e *report.Error) string {
	if e == nil {
		return ""
	}
	return OneLine(e.Message)
}

// inTrouble says whether a disk's status needs its cause.
func inTrouble(d report.Disk) bool {
	return d.Status == job.DiskBackoff || d.Status == job.DiskFailed
}

// because is a cause as the end of a line; empty for nil.
func (p Paint) because(cause *report.Error) string {
	if text := causeText(cause); text != "" {
		return ": " + p.Yellow(text)
	}
	return ""
}

// OneLine is report.OneLine.
func OneLine(t string) string { return report.OneLine(t) }

// shownText is OneLine for a text whose spaces stay.
func shownText(t string) string { return strings.Map(report.Shown, t) }

// shownLines is shownText for a text of several lines.
func shownLines(t string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' {
			return r
		}
		return report.Shown(r)
	}, t)
}

// Clip shortens a text to a number of columns.
func Clip(t string, columns int) string {
	if columns < 1 {
		return t
	}
	return runewidth.Truncate(t, columns, "…")
}

// clipMiddle shortens a text to a number of columns. Its end stays: the names of disks differ there.
func clipMiddle(t string, columns int) string {
	if width(t) <= columns {
		return t
	}
	end := ""
	for _, r := range slices.Backward([]rune(t)) {
		if width(string(r)+end) > min(4, columns/2) {
			break
		}
		end = string(r) + end
	}
	return runewidth.Truncate(t, columns-width(end), "…") + end
}

// width is the number of columns that a text takes on a terminal. Some letters take two.
func width(t string) int { return runewidth.StringWidth(t) }
