package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const watchHelp = `Shows the progress of a job until the job ends: a line for the job and a bar for each disk on a
terminal, plain lines elsewhere, one JSON object per report with --progress json. JOB is the id of a job, or its VM;
several are watched together. Without JOB it watches the newest job that has not ended.

Ctrl-C ends only the watching, not the job, with exit code 130. If the daemon does not answer, the command says so, and
waits for it. The exit code is that of the job: 0 completed, 3 failed, 5 cancelled, 6 not finished after --timeout.`

const watchExample = `  vmferry watch
  vmferry watch job-20250925-134230.513-8034ee --progress plain
  vmferry watch web db
  vmferry watch --progress json 2>&1 >/dev/null | jq .overall_percent
  vmferry watch ID --until waiting_cutover --timeout 2h && vmferry cutover ID`

func newWatchCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "watch [JOB...]", Short: "Show the progress of jobs", Long: watchHelp, Example: watchExample,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeJobs(),
	}
	at, show, out := serverFlag(c, s), ProgressFlag(c), OutputFlag(c, AsName, AsJSON, AsYAML)
	w := waitFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		v, err := show.View(s)
		if err != nil {
			return err
		}
		ids, err := theJobs(c.Context(), cl, args)
		if err != nil {
			return err
		}
		all, err := w.follow(c.Context(), s, cl, ids, v)
		if err != nil {
			return err
		}
		return w.finish(s, out, all)
	}
	return c
}

// finish writes the last reports and turns them into an exit code. A job that has come as far as the flags say is no
// failure.
func (w *wait) finish(s Streams, out *Output, all []report.Report) error {
	if out.Structured() {
		if err := out.one(s.Out, all); err != nil {
			return err
		}
	}
	return outcomes(slices.DeleteFunc(slices.Clone(all), func(r report.Report) bool { return w.reached(r) }))
}

// theJobs are the jobs in args, each once, or the newest job that has not ended.
func theJobs(ctx context.Context, c *rest.Client, args []string) ([]job.ID, error) {
	if len(args) > 0 {
		var ids []job.ID
		for _, text := range args {
			r, err := find(ctx, c, text, unfinished)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(ids, r.JobID) {
				ids = append(ids, r.JobID)
			}
		}
		return ids, nil
	}
	all, err := jobs(ctx, c, jobFilter{})
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(all, unfinished)
	if i < 0 {
		return nil, job.Errorf("find a job", job.NotFound,
			"Start one with: vmferry run VM, or name one of: vmferry get jobs", "no job is running")
	}
	return []job.ID{all[i].JobID}, nil
}

// wait says how long a command waits, and for what.
type wait struct {
	timeout time.Duration
	until   string
	was     map[job.ID]bool // the jobs that were where until wants them; of several, the first may go on
}

func waitFlags(c *cobra.Command) *wait {
	w := &wait{}
	c.Flags().DurationVar(&w.timeout, "timeout", 0,
		"stop waiting after this time, with exit code 6; the job goes on (0: never)")
	c.Flags().StringVar(&w.until, "until", "",
		"stop watching at this status or phase, as in waiting_cutover (default: the end)")
	return w
}

func (w *wait) done(r report.Report) bool { return Ended(r) || w.reached(r) }

// reached says whether a job that goes on is, or was, where --until wants it.
func (w *wait) reached(r report.Report) bool {
	if Ended(r) || w.until == "" {
		return false
	}
	if string(r.Status) == w.until || string(r.Phase) == w.until {
		if w.was == nil {
			w.was = map[job.ID]bool{}
		}
		w.was[r.JobID] = true
	}
	return w.was[r.JobID]
}

// waitedError is the cause of a wait that reached its timeout.
type waitedError struct{ d time.Duration }

func (e waitedError) Error() string { return "waited for " + e.d.String() }

// follow shows jobs within the flags' limits. Ctrl-C and the timeout do not end the jobs.
func (w *wait) follow(ctx context.Context, s Streams, c *rest.Client, ids []job.ID, v View) ([]report.Report, error) {
	limited := ctx
	if w.timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, w.timeout, waitedError{w.timeout})
		defer cancel()
	}
	all, err := FollowAll(limited, c, ids, v, w.done)
	v.Close()
	which := make([]string, len(ids))
	for i, id := range ids {
		which[i] = string(id)
	}
	names, noun, verb, they := strings.Join(which, " "), "job", "goes", "it goes"
	if len(ids) > 1 {
		noun, verb, they = "jobs", "go", "they go"
	}
	var late waitedError
	switch {
	case err == nil: // also if the time is over by now
		return all, nil
	case ctx.Err() != nil:
		s.Say("detached; %s %s %s on. Watch again with: vmferry watch %s", noun, names, verb, names)
		return all, &exitError{code: ExitInterrupted}
	case limited.Err() != nil && errors.As(context.Cause(limited), &late):
		return all, &exitError{ExitTimeout, job.Errorf("", job.Timeout, "Watch again with: vmferry watch "+names,
			"%s %s: not finished after %s; %s on", noun, names, w.timeout, they)}
	default:
		return all, err
	}
}
