package cli

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// View shows how a job goes on. Reports come in their order, from one goroutine.
type View interface {
	// Show takes the next report.
	Show(r report.Report) error
	// Say writes a line of words between the reports.
	Say(line string)
	// Lost is told since when the daemon does not answer, and why; Back that it answers again.
	Lost(since time.Time, why error)
	Back(now time.Time)
	// Tick is called a few times a second, to show the time. age is how old the numbers of jobs are that copy or read
	// back now: the oldest; 0 if there is no such job, and if it is not known.
	Tick(now time.Time, age time.Duration)
	// Close ends the view; words may follow.
	Close()
}

// Progress is the --progress flag.
type Progress struct{ mode string }

// ProgressFlag adds --progress.
func ProgressFlag(c *cobra.Command) *Progress {
	p := &Progress{}
	c.Flags().StringVar(&p.mode, "progress", "auto", "progress on standard error: auto, tty, plain, json, quiet")
	modes := []string{"auto", "tty", "plain", "json", "quiet"}
	// fails only for a flag that does not exist
	_ = c.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions(modes, cobra.ShellCompDirectiveNoFileComp))
	return p
}

// View makes the view of the flag. auto is bars on a terminal, and plain lines elsewhere.
func (p *Progress) View(s Streams) (View, error) {
	columns, tty := Terminal(s.Err)
	switch p.mode {
	case "auto":
		if tty && s.Getenv("TERM") != "dumb" && s.Getenv("CI") == "" {
			return newBars(s.Err, columns, Paint(s.Coloured(s.Err))), nil
		}
		return newLines(s.Err, Paint(s.Coloured(s.Err))), nil
	case "tty":
		if !tty {
			columns = 100
		}
		return newBars(s.Err, columns, Paint(s.Coloured(s.Err))), nil
	case "plain":
		return newLines(s.Err, Paint(s.Coloured(s.Err))), nil
	case "json":
		return &jsonView{enc: json.NewEncoder(jsonWriter{s.Err})}, nil
	case "quiet":
		return quiet{}, nil
	}
	return nil, Usage("--progress is auto, tty, plain, json or quiet, not %q", p.mode)
}

// oldAfter is the age of numbers from which on it is shown.
const oldAfter = 3 * time.Second

// oldText says how old the numbers are; "" while they are new.
func oldText(age time.Duration) string {
	if age <= oldAfter {
		return ""
	}
	return "no news: these numbers are " + durationText(age) + " old"
}

// ageOf is how old the numbers of a job are, by the daemon's clock; 0 if no attempt runs that would have new ones.
func ageOf(r report.Report, daemon time.Time) time.Duration {
	runs := slices.ContainsFunc(r.Disks, func(d report.Disk) bool {
		return d.Status == job.DiskRunning || d.Status == job.DiskVerifying
	})
	if !runs || r.SampledAt == nil || Ended(r) || r.Status == job.Paused {
		return 0
	}
	return max(0, daemon.Sub(*r.SampledAt))
}

// newNotes are the notes that the report before did not have, each in one line.
func newNotes(before, now []string) (out []string) {
	for _, n := range now {
		if !slices.Contains(before, n) {
			out = append(out, OneLine(n))
		}
	}
	return out
}

// jsonView writes each report as one line of JSON: the object of the daemon's event stream.
type jsonView struct {
	enc *json.Encoder
}

func (v *jsonView) Show(r report.Report) error  { return v.enc.Encode(r) }
func (*jsonView) Say(string)                    {}
func (*jsonView) Lost(time.Time, error)         {}
func (*jsonView) Back(time.Time)                {}
func (*jsonView) Tick(time.Time, time.Duration) {}
func (*jsonView) Close()                        {}

// quiet shows nothing.
type quiet struct{}

func (quiet) Show(report.Report) error      { return nil }
func (quiet) Say(string)                    {}
func (quiet) Lost(time.Time, error)         {}
func (quiet) Back(time.Time)                {}
func (quiet) Tick(time.Time, time.Duration) {}
func (quiet) Close()                        {}
