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

JOB is the id of a job, or its VM by name, path, UUID or managed object id. Several are asked one after the other; one
that is refused does not stop the others. The command returns when the request is durable, not when it is carried out:
see vmferry watch JOB. A request that is not allowed now is refused with those that are, and changes nothing (exit
code 7). An unknown job is exit code 10.`

const cancelHelp = `Ends a job and removes its snapshot. The targets stay as they are; vmferry retry begins again.
--purge also removes the target files that the job made; volumes and exports that existed before are never touched. On
a terminal --purge asks first; elsewhere it needs --yes.`

const cancelExample = `  vmferry cancel job-20250925-134230.513-8034ee
  vmferry cancel job-20250925-134230.513-8034ee --purge --yes`

const retryHelp = `Queues a job again that failed or was cancelled. A disk whose target is known to be complete is not
copied anew: only what has changed since is moved. With --disk only the named disks may be copied anew; the command is
refused if others must be. With --fresh all disks are copied anew.`

const retryExample = `  vmferry retry job-20250925-134230.513-8034ee
  vmferry retry job-20250925-134230.513-8034ee --disk disk-2001
  vmferry retry job-20250925-134230.513-8034ee --fresh`

const deleteHelp = `Removes a job that has ended: its journal and its reports. The targets stay. On a terminal the
command asks first; elsewhere it needs --yes.`

func newVerbCommands(s Streams) []*cobra.Command {
	return []*cobra.Command{
		newVerbCommand(s, job.Pause, "Stop copying for now",
			"Stops copying. The disks record their progress, and the snapshot is kept."),
		newVerbCommand(s, job.Resume, "Go on copying", "Continues a paused job. Each disk goes on from where it was."),
		newCancelCommand(s),
		newRetryCommand(s),
		newVerbCommand(s, job.Sync, "Run one more round",
			"Moves to the targets of a waiting job what has changed since the last round."),
		newVerbCommand(s, job.CutoverNow, "Run the last round and complete the job",
			"Moves what has changed since the last round, and completes the job. Switch the VM off before, so that\n"+
				"no later write is lost."),
		newDeleteCommand(s),
	}
}

func newVerbCommand(s Streams, verb job.Verb, short, long string) *cobra.Command {
	c := &cobra.Command{
		Use: string(verb) + " JOB...", Short: short, Long: long + verbHelp,
		Example: "  vmferry " + string(verb) + " job-20250925-134230.513-8034ee\n  vmferry " + string(verb) + " web db",
		Args:    cobra.MinimumNArgs(1), ValidArgsFunction: completeJobs(),
	}
	at := serverFlag(c, s)
	c.RunE = func(c *cobra.Command, args []string) error {
		return commandAll(c, s, at, args, job.CommandReceived{Verb: verb})
	}
	return c
}

func newCancelCommand(s Streams) *cobra.Command {
	asked, yes := job.CommandReceived{Verb: job.Cancel}, false
	c := &cobra.Command{
		Use: "cancel JOB...", Short: "End jobs", Args: cobra.MinimumNArgs(1), ValidArgsFunction: completeJobs(),
		Long: cancelHelp + verbHelp, Example: cancelExample,
	}
	at := serverFlag(c, s)
	c.Flags().BoolVar(&asked.Purge, "purge", false, "also remove the target files that the job made")
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		if asked.Purge && !yes {
			if err := ask(s, fmt.Sprintf("Cancel %s and remove the target files that were made for it?",
				strings.Join(args, ", "))); err != nil {
				return err
			}
		}
		return commandAll(c, s, at, args, asked)
	}
	return c
}

func newRetryCommand(s Streams) *cobra.Command {
	asked := job.CommandReceived{Verb: job.Retry}
	var disks []string
	c := &cobra.Command{
		Use: "retry JOB...", Short: "Run jobs again that failed or were cancelled", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: completeJobs(),
		Long:              retryHelp + verbHelp, Example: retryExample,
	}
	at := serverFlag(c, s)
	c.Flags().StringSliceVar(&disks, "disk", nil, "copy only this disk anew; several with commas")
	c.Flags().BoolVar(&asked.Fresh, "fresh", false, "copy everything anew")
	c.MarkFlagsMutuallyExclusive("disk", "fresh")
	c.RunE = func(c *cobra.Command, args []string) error {
		asked.Disks = nil
		if len(disks) > 0 {
			if err := exclusive("--disk", args); err != nil {
				return err
			}
		}
		for _, d := range disks {
			asked.Disks = append(asked.Disks, job.DiskID(d))
		}
		return commandAll(c, s, at, args, asked)
	}
	return c
}

// commandAll gives a command to each job. It goes on after a refusal; the exit code is that of the first refusal.
func commandAll(c *cobra.Command, s Streams, at *server, args []string, asked job.CommandReceived) error {
	cl, err := at.client()
	if err != nil {
		return err
	}
	var refused error
	for _, text := range args {
		if err := command(c, s, cl, text, asked); err != nil {
			refused = worst(refused, named(text, len(args), err))
		}
	}
	return refused
}

func command(c *cobra.Command, s Streams, cl *rest.Client, text string, asked job.CommandReceived) error {
	verb := asked.Verb
	r, err := find(c.Context(), cl, text, allows(verb))
	if err != nil {
		return err
	}
	id := r.JobID
	if err := cl.Ask(c.Context(), id, asked); err != nil {
		return err
	}
	if starts := []job.Verb{job.Sync, job.CutoverNow, job.Retry, job.Resume}; slices.Contains(starts, verb) {
		seen(c.Context(), cl, id, verb)
	}
	s.Say("%s: %s accepted", id, verb)
	return nil
}

// seenWithin is how long a command waits until the reports show a request that is already durable.
const seenWithin = 2 * time.Second

// seen waits until the job's reports show that the command was received, so that the next command does not see the
// state before. The request is durable even if that takes longer.
func seen(ctx context.Context, c *rest.Client, id job.ID, verb job.Verb) {
	ctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	_ = c.Watch(ctx, "", func(r report.Report) error { // the error only says how the wait ended
		if !slices.Contains(r.Allowed, verb) {
			cancel()
		}
		return nil
	}, id)
}

func newDeleteCommand(s Streams) *cobra.Command {
	yes := false
	c := &cobra.Command{
		Use: "delete JOB...", Short: "Remove jobs that have ended", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: completeJobs(),
		Long:              deleteHelp + verbHelp, Example: "  vmferry delete job-20250925-134230.513-8034ee --yes",
	}
	at := serverFlag(c, s)
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !yes {
			question := fmt.Sprintf("Remove %s, and what the journal has of it?", strings.Join(args, ", "))
			if err := ask(s, question); err != nil {
				return err
			}
		}
		return commandAll(c, s, at, args, job.CommandReceived{Verb: job.Delete})
	}
	return c
}

// ask asks for a yes on the terminal. Without a terminal it is a usage error.
func ask(s Streams, question string) error {
	if _, tty := Terminal(s.In); !tty {
		return Usage("there is no terminal to ask on; add --yes to confirm")
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
