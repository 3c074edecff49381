package cli

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/report"
)

const describeHelp = `Describes a job in words: its phase, what each disk does, what failed and what can be done.
-o json has the same as data: the options and limits, each phase and round with how long it took, each disk.

JOB is the id of a job, or its VM. An unknown job ends with exit code 10.`

func newDescribeCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "describe JOB", Short: "Describe a job", Long: describeHelp,
		Example: "  vmferry describe web\n" +
			"  vmferry describe job-20250925-134230.513-8034ee -o json | jq .options", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeJobs(),
	}
	at, out := serverFlag(c, s), OutputFlag(c, AsTable, AsJSON, AsYAML)
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := at.job(c.Context(), args[0])
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, r)
		}
		return describe(s.Out, r)
	}
	return c
}

func describe(w io.Writer, r report.Report) error {
	b := &strings.Builder{}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(b, "%-14s %s\n", name+":", shownText(fmt.Sprintf(format, args...)))
	}
	line("Job", "%s", r.JobID)
	line("VM", "%s  %s  %s", vmText(r.VM), r.VM.Path, r.VM.Ref)
	line("Status", "%s, %s: %s", statusText(r), r.Phase, r.Operation)
	if w := r.Watched; w != nil {
		text := "seen " + timeText(w.SeenAt)
		if w.Since != nil {
			text = fmt.Sprintf("%s since %s: %s", r.Status, timeText(w.Since), w.Reason)
		}
		line("Node", "%s (%s), %s", r.Node, w.Kind, OneLine(text))
	}
	if o := r.Options; o != nil && r.RequestedMode != nil {
		line("Asked for", "%s", optionsText(*r.RequestedMode, *o))
	}
	line("Health", "%s", healthText(r.Health))
	line("Overall", "%.2f%%", cut(r.OverallPercent, 2))
	line("Round", "%d (%s): %s, %s moved and %s skipped of %s", r.Round, r.Mode, PercentText(r.Percent),
		sizeText(r.BytesTransferred), sizeText(r.BytesSkipped), sizePointerText(r.BytesToTransfer))
	line("Speed", "%s now, %s over a minute, %s at most; eta %s", speedText(r.BytesPerSecond),
		speedText(r.BytesPerSecondAverage), speedText(&r.BytesPerSecondPeak), etaText(r.ETASeconds))
	line("Time goes to", "%s", loadText(r.Load))
	if r.WaitingFor != "" {
		line("Waits for", "%s", waitsText(r.WaitingFor, r.StalledSince))
	}
	line("Created", "%s, started %s, ended %s", timeText(&r.CreatedAt), timeText(r.StartedAt), timeText(r.EndedAt))
	line("Report", "%s of %s; numbers of %s", r.Version(), timeText(&r.ObservedAt), timeText(r.SampledAt))
	if r.Snapshot != nil {
		line("Snapshot", "%s (%s), taken %s (%s ago), quiesced: %t", r.Snapshot.Name, r.Snapshot.Ref,
			timeText(&r.Snapshot.TakenAt), durationText(r.ObservedAt.Sub(r.Snapshot.TakenAt)), r.Snapshot.Quiesced)
	}
	if r.Error != nil {
		line("Error", "%s (%s, in %s)", OneLine(r.Error.Message), r.Error.Code, r.Error.Phase)
		if r.Error.Next != "" {
			line("Next", "%s", r.Error.Next)
		}
	}
	if len(r.Allowed) > 0 {
		line("Allowed", "%s", strings.Join(verbTexts(r.Allowed), ", "))
	}
	for _, n := range r.Notes {
		line("Note", "%s", n)
	}
	describeDisks(b, r.Disks)
	describePast(b, r)
	_, err := io.WriteString(w, b.String())
	return err
}

func describeDisks(b *strings.Builder, disks []report.Disk) {
	for _, d := range disks {
		fmt.Fprintf(b, "\n%s  %s  %s\n", OneLine(string(d.DiskID)), OneLine(d.Label), sizeText(d.BytesCapacity))
		line := func(name, format string, args ...any) {
			fmt.Fprintf(b, "  %-12s %s\n", name+":", shownText(fmt.Sprintf(format, args...)))
		}
		line("Status", "%s, %s, attempt %d, restarts %d", d.Status, PercentText(d.Percent), d.Attempt, d.Restarts)
		line("Bytes", "%s moved, %s skipped of %s; %s durable, %s sent again, %s verified",
			sizeText(d.BytesTransferred), sizeText(d.BytesSkipped), sizePointerText(d.BytesToTransfer),
			sizeText(d.BytesDurable), sizeText(d.BytesResent), sizeText(d.BytesVerified))
		line("Speed", "%s; eta %s; %s", speedText(d.BytesPerSecond), etaText(d.ETASeconds), loadText(d.Load))
		if d.WaitingFor != "" {
			line("Waits for", "%s", waitsText(d.WaitingFor, cmp.Or(d.SilentSince, d.StalledSince)))
		}
		if d.BackoffUntil != nil && d.Status == job.DiskBackoff {
			line("Next try", "%s", timeText(d.BackoffUntil))
		}
		line("From", "%s %s", d.File, d.Transport)
		line("To", "%s", d.Target)
		line("Proved", "%s", provedText(d))
		if d.LastCause != nil {
			line("Last cause", "%s (%s, %s)", OneLine(d.LastCause.Message), d.LastCause.Code, timeText(&d.LastCause.At))
			if d.LastCause.Next != "" {
				line("Next", "%s", d.LastCause.Next)
			}
		}
	}
}

// provedText says since when the target is known to be equal to the disk, and whether a write of others would show.
func provedText(d report.Disk) string {
	text := "not yet"
	if d.ProvedAt != nil {
		text = "by the round that was committed at " + timeText(d.ProvedAt)
	}
	switch {
	case d.Stamped == nil:
		return text
	case *d.Stamped:
		return text + "; stamped: a later write of others shows"
	case nbd.IsURI(d.Target):
		return text + "; an export can't be stamped: nothing can tell afterwards whether others wrote to it"
	default:
		return text + "; it can't be stamped: nothing can tell afterwards whether others wrote to it"
	}
}

// describePast lists rounds and phases.
func describePast(b *strings.Builder, r report.Report) {
	b.WriteString("\nRounds\n")
	for _, o := range r.Rounds {
		fmt.Fprintf(b, "  %d  %-11s  %s moved, %s skipped of %s, %s sent again, %s\n", o.Round, o.Mode,
			sizeText(o.BytesTransferred), sizeText(o.BytesSkipped), sizeText(o.BytesToTransfer),
			sizeText(o.BytesResent), secondsText(o.DurationSeconds))
		if o.Load != (report.Load{}) {
			fmt.Fprintf(b, "     %-11s  time went to %s\n", "", loadText(o.Load))
		}
	}
	b.WriteString("\nPhases\n")
	for _, p := range r.Phases {
		fmt.Fprintf(b, "  %s  round %d  %-10s %s", timeText(&p.StartedAt), p.Round, p.Name,
			secondsText(p.DurationSeconds))
		if text := p.WaitedText(); text != "" {
			fmt.Fprintf(b, ", %s", OneLine(text)) // its words may be of another node
		}
		b.WriteString("\n")
	}
}

func secondsText(s *float64) string {
	if s == nil {
		return unknown
	}
	return fmt.Sprintf("%.1fs", *s)
}

// optionsText says what was asked for, with the limits as they are now.
func optionsText(mode job.Mode, o job.Options) string {
	text := fmt.Sprintf("mode %s, verify %s, cut-over %s, quiesce %t; bandwidth %s, disks at a time %s", mode, o.Verify,
		o.Cutover, o.Quiesce, report.LimitText(o.Bandwidth, sizeText(o.Bandwidth)+"/s"),
		report.LimitText(int64(o.Disks), strconv.Itoa(o.Disks)))
	if o.Adopt {
		text += "; adopt"
	}
	if o.Strict {
		text += "; strict"
	}
	return text
}

func waitsText(who string, since *time.Time) string {
	if since == nil {
		return who
	}
	return who + ", without a sign of life since " + timeText(since)
}

func loadText(l report.Load) string {
	return fmt.Sprintf("source %.0f%%, target %.0f%%, throttle %.0f%%", 100*l.Source, 100*l.Target, 100*l.Throttle)
}

func verbTexts(v []job.Verb) []string {
	out := make([]string, len(v))
	for i, x := range v {
		out[i] = string(x)
	}
	return out
}
