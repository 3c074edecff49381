package cli

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const watchHelp = `Shows the progress of a job until the job ends: a line for the job and a bar for each disk on a
terminal, plain lines elsewhere, one JSON object per report with --progress json. Without ID it watches the newest job
that has not ended.

Ctrl-C ends only the watching, not the job, with exit code 130. If the daemon restarts, the command waits for it. The
exit code is that of the job: 0 completed, 3 failed, 5 cancelled, 6 not finished after --timeout.`

const watchExample = `  vmferry watch
  vmferry watch job-20250925-134230.513-8034ee --progress plain
  vmferry watch --progress json 2>&1 >/dev/null | jq .overall_percent
  vmferry watch ID --until waiting_cutover --timeout 2h && vmferry cutover ID`

func newWatchCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "watch [ID]", Short: "Show the progress of a job", Long: watchHelp, Example: watchExample,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeJobs(),
	}
	at, show, out := serverFlag(c, s), ProgressFlag(c), OutputFlag(c, AsName, AsJSON, AsYAML)
	w := waitFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		id, err := theJob(c.Context(), cl, args)
		if err != nil {
			return err
		}
		v, err := show.View(s)
		if err != nil {
			return err
		}
		r, err := w.follow(c.Context(), s, cl, id, v)
		if err != nil {
			return err
		}
		return finish(s, out, r)
	}
	return c
}

// finish writes the last report and turns it into an exit code.
func finish(s Streams, out *Output, r report.Report) error {
	if out.Structured() {
		if err := out.Data(s.Out, r); err != nil {
			return err
		}
	}
	return Outcome(r)
}

// theJob is the job in args, or the newest job that has not ended.
func theJob(ctx context.Context, c *rest.Client, args []string) (job.ID, error) {
	if len(args) > 0 {
		return job.ParseID(args[0])
	}
	all, err := jobs(ctx, c, jobFilter{})
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(all, func(r report.Report) bool { return !Ended(r) })
	if i < 0 {
		return "", job.Errorf("find a job", job.NotFound,
			"Start one with: vmferry run VM, or name one of: vmferry get jobs", "no job is running")
	}
	return all[i].JobID, nil
}

// wait says how long a command waits, and for what.
type wait struct {
	timeout time.Duration
	until   string
}

func waitFlags(c *cobra.Command) *wait {
	w := &wait{}
	c.Flags().DurationVar(&w.timeout, "timeout", 0,
		"stop waiting after this time, with exit code 6; the job goes on (0: never)")
	c.Flags().StringVar(&w.until, "until", "",
		"stop watching at this status or phase, as in waiting_cutover (default: the end)")
	return w
}

func (w *wait) done(r report.Report) bool {
	return Ended(r) || w.until != "" && (string(r.Status) == w.until || string(r.Phase) == w.until)
}

// waitedError is the cause of a wait that reached its timeout.
type waitedError struct{ d time.Duration }

func (e waitedError) Error() string { return "waited for " + e.d.String() }

// follow shows a job within the flags' limits. Ctrl-C and the timeout do not end the job.
func (w *wait) follow(ctx context.Context, s Streams, c *rest.Client, id job.ID, v View) (report.Report, error) {
	limited := ctx
	if w.timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, w.timeout, waitedError{w.timeout})
		defer cancel()
	}
	r, err := Follow(limited, c, id, v, w.done)
	v.Close()
	var late waitedError
	switch {
	case err == nil && w.until != "" && !Ended(r):
		return r, nil
	case ctx.Err() != nil:
		s.Say("detached; job %s goes on. Watch it again with: vmferry watch %s", id, id)
		return r, &exitError{code: ExitInterrupted}
	case limited.Err() != nil && errors.As(context.Cause(limited), &late):
		return r, &exitError{ExitTimeout, job.Errorf("", job.Timeout, "Watch it again with: vmferry watch "+string(id),
			"job %s is not finished after %s; it goes on", id, w.timeout)}
	default:
		return r, err
	}
}
