package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const verbHelp = `

It returns when the request is durable, not when it is carried out: look with vmferry watch ID. What is not possible
now is refused with what is, and nothing is changed (exit code 7); an unknown job is exit code 10.`

func newVerbCommands(s Streams) []*cobra.Command {
	return []*cobra.Command{
		newVerbCommand(s, job.Pause, "Stop copying for now",
			"Stops copying; the disks record how far they are, and the snapshot is kept."),
		newVerbCommand(s, job.Resume, "Go on copying", "Goes on with a paused job, each disk where it was."),
		newCancelCommand(s),
		newRetryCommand(s),
		newVerbCommand(s, job.Sync, "One more round",
			"Brings the targets of a waiting job in step once more, with what changed since the last round."),
		newVerbCommand(s, job.CutoverNow, "The last round, then done",
			"Moves what changed since the last round, once more, and completes the job. Switch the VM off before if nothing may be lost."),
		newDeleteCommand(s),
	}
}

func newVerbCommand(s Streams, verb job.Verb, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: string(verb) + " ID", Short: short, Long: long + verbHelp, Example: "  vmferry " + string(verb) +
			" job-20250925-134230.513-8034ee",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeJobs(),
	}
	at := serverFlag(c, s)
	c.RunE = func(c *cobra.Command, args []string) error {
		return command(c, s, at, args[0], job.CommandReceived{Verb: verb})
	}
	return c
}

func newCancelCommand(s Streams) *cobra.Command {
	asked, yes := job.CommandReceived{Verb: job.Cancel}, false
	c := &cobra.Command{
		Use: "cancel ID", Short: "End a job", Args: cobra.ExactArgs(1), ValidArgsFunction: completeJobs(),
		Long: "Ends a job and removes its snapshot. The targets stay as they are; vmferry retry begins again. With --purge the target files that the job " +
			"made are removed as well; volumes and exports that were there before are never touched. It asks first, on a terminal; elsewhere --purge wants --yes." + verbHelp,
		Example: "  vmferry cancel job-20250925-134230.513-8034ee\n  vmferry cancel job-20250925-134230.513-8034ee --purge --yes",
	}
	at := serverFlag(c, s)
	c.Flags().BoolVar(&asked.Purge, "purge", false, "remove the target files that the job made, too")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		if asked.Purge && !yes {
			if err := ask(s, fmt.Sprintf("Cancel job %s and remove the target files that it made?",
				args[0])); err != nil {
				return err
			}
		}
		return command(c, s, at, args[0], asked)
	}
	return c
}

func newRetryCommand(s Streams) *cobra.Command {
	asked := job.CommandReceived{Verb: job.Retry}
	var disks []string
	c := &cobra.Command{
		Use: "retry ID", Short: "Begin a job again that failed or was cancelled", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeJobs(),
		Long: "Queues a job again that failed or was cancelled. What is on the targets already is not copied again where that is certain: of those disks only " +
			"what changed since is moved. With --disk only the named ones may be copied anew, and it is refused when others would have to be. With --fresh everything is." + verbHelp,
		Example: "  vmferry retry job-20250925-134230.513-8034ee\n  vmferry retry job-20250925-134230.513-8034ee --disk disk-2001\n  vmferry retry job-20250925-134230.513-8034ee --fresh",
	}
	at := serverFlag(c, s)
	c.Flags().StringSliceVar(&disks, "disk", nil, "copy only this disk anew; several with commas")
	c.Flags().BoolVar(&asked.Fresh, "fresh", false, "copy everything anew")
	c.MarkFlagsMutuallyExclusive("disk", "fresh")
	c.RunE = func(c *cobra.Command, args []string) error {
		asked.Disks = nil
		for _, d := range disks {
			asked.Disks = append(asked.Disks, job.DiskID(d))
		}
		return command(c, s, at, args[0], asked)
	}
	return c
}

func command(c *cobra.Command, s Streams, at *server, text string, asked job.CommandReceived) error {
	verb := asked.Verb
	id, err := job.ParseID(text)
	if err != nil {
		return err
	}
	cl, err := at.client()
	if err != nil {
		return err
	}
	if err := cl.Ask(c.Context(), id, asked); err != nil {
		return err
	}
	if starts := []job.Verb{job.Sync, job.CutoverNow, job.Retry, job.Resume}; slices.Contains(starts, verb) {
		seen(c.Context(), cl, id, verb)
	}
	s.Say("%s: %s accepted", id, verb)
	return nil
}

// seenWithin is how long a command waits until the reports show what is durable already.
const seenWithin = 2 * time.Second

// seen waits until the job's reports show that the verb was heard, so that whoever looks next does not see the state
// before it. If that takes long the request stands all the same.
func seen(ctx context.Context, c *rest.Client, id job.ID, verb job.Verb) {
	ctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	_ = c.Watch(ctx, "", func(r report.Report) error { // its error says only how the waiting ended
		if !slices.Contains(r.Allowed, verb) {
			cancel()
		}
		return nil
	}, id)
}

func newDeleteCommand(s Streams) *cobra.Command {
	yes := false
	c := &cobra.Command{
		Use: "delete ID", Short: "Forget a job that has ended", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeJobs(),
		Long:              "Forgets a job that has ended: its journal and its reports. The targets stay. It asks first, on a terminal; elsewhere it wants --yes." + verbHelp,
		Example:           "  vmferry delete job-20250925-134230.513-8034ee --yes",
	}
	at := serverFlag(c, s)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !yes {
			if err := ask(s, fmt.Sprintf("Forget job %s and its journal?", args[0])); err != nil {
				return err
			}
		}
		return command(c, s, at, args[0], job.CommandReceived{Verb: job.Delete})
	}
	return c
}

// ask wants a yes. Off a terminal nobody could answer.
func ask(s Streams, question string) error {
	if _, tty := Terminal(s.In); !tty {
		return Usage("there is no terminal to ask on; say --yes if you mean it")
	}
	fmt.Fprintf(s.Err, "%s [y/N] ", question)
	answer, err := bufio.NewReader(s.In).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return &exitError{ExitFailed, errors.New("nothing was done")}
	}
	return nil
}
