package main

import (
	"encoding/json"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/report"
)

// view shows how a job goes on. Reports come in their order, from one goroutine.
type view interface {
	// show takes the next report.
	show(r report.Report) error
	// say writes a line of words beside the reports.
	say(line string)
	// tick is called a few times a second, for what changes by time alone.
	tick(now time.Time)
	// close leaves the screen in order.
	close()
}

// progress is the --progress flag.
type progress struct{ mode string }

func progressFlag(c *cobra.Command) *progress {
	p := &progress{}
	c.Flags().StringVar(&p.mode, "progress", "auto", "progress on standard error: auto, tty, plain, json, quiet")
	// fails only for a flag that is not there
	_ = c.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions([]string{
		"auto", "tty", "plain", "json",
		"quiet",
	}, cobra.ShellCompDirectiveNoFileComp))
	return p
}

// view makes the view that was asked for. auto is bars on a terminal, and plain lines elsewhere.
func (p *progress) view(s streams) (view, error) {
	columns, tty := terminal(s.err)
	switch p.mode {
	case "auto":
		if tty && s.getenv("TERM") != "dumb" && s.getenv("CI") == "" {
			return newBars(s.err, columns, paint(s.coloured(s.err))), nil
		}
		return newLines(s.err, paint(s.coloured(s.err))), nil
	case "tty":
		if !tty {
			columns = 100
		}
		return newBars(s.err, columns, paint(s.coloured(s.err))), nil
	case "plain":
		return newLines(s.err, paint(s.coloured(s.err))), nil
	case "json":
		return &jsonView{enc: json.NewEncoder(s.err)}, nil
	case "quiet":
		return quiet{}, nil
	}
	return nil, usage("--progress is auto, tty, plain, json or quiet, not %q", p.mode)
}

// jsonView writes each report as one line of JSON: the same object as in the events of the REST service.
type jsonView struct {
	enc *json.Encoder
}

func (v *jsonView) show(r report.Report) error { return v.enc.Encode(r) }
func (*jsonView) say(string)                   {}
func (*jsonView) tick(time.Time)               {}
func (*jsonView) close()                       {}

// quiet shows nothing.
type quiet struct{}

func (quiet) show(report.Report) error { return nil }
func (quiet) say(string)               {}
func (quiet) tick(time.Time)           {}
func (quiet) close()                   {}
