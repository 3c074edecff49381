package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

const eventsHelp = `Lists the events of a job in words, oldest first: commands, decisions, failures and retries. The
list is the job's journal, so it outlives the daemon. -o json has the events as they are stored, with their words.

With --follow the command goes on with each new event until the job ends; with -o json it then writes one event a line.
If the daemon does not answer it says so, and waits. Ctrl-C ends the command with exit code 130.

JOB is the id of a job, or its VM. An unknown job ends with exit code 10.`

const eventsExample = `  vmferry events web
  vmferry events job-20250925-134230.513-8034ee --follow
  vmferry events web --grep disk-2000 --after 17
  vmferry logs web -o json | jq '.[] | select(.type == "disk_fell")'`

// eventsEvery is the interval at which --follow asks for new events.
const eventsEvery = time.Second

func newEventsCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "events JOB", Aliases: []string{"logs"}, Short: "List the events of a job", Long: eventsHelp,
		Example: eventsExample, Args: cobra.ExactArgs(1), ValidArgsFunction: completeJobs(),
	}
	at, out := serverFlag(c, s), OutputFlag(c, AsTable, AsJSON, AsYAML)
	var follow bool
	var o rest.EventOptions
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the job ends")
	c.Flags().StringVar(&o.After, "after", "", "only events that follow this one, named by its id or number")
	c.Flags().StringVar(&o.Text, "grep", "", "only events with this text in their words or their type")
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		r, err := find(c.Context(), cl, args[0], unfinished)
		if err != nil {
			return err
		}
		switch {
		case follow && out.form == AsYAML:
			return Usage("--follow writes words, or with -o json one event a line")
		case follow:
			return followEvents(c.Context(), s, cl, r.JobID, o, out.form == AsJSON)
		}
		all, err := cl.ListEvents(c.Context(), r.JobID, o)
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, all)
		}
		for _, e := range all {
			writeEvent(s.Out, e)
		}
		return nil
	}
	return c
}

func writeEvent(w io.Writer, e rest.JournalEntry) {
	fmt.Fprintf(w, "%s  %4d  %s\n", timeText(&e.At), e.Seq, shownText(e.Text))
}

// followEvents writes each event until the job ends. A daemon that does not answer is waited for.
//
//nolint:gocognit // one loop, each turn from the question to the pause
func followEvents(ctx context.Context, s Streams, cl *rest.Client, id job.ID, o rest.EventOptions,
	asJSON bool,
) error {
	tick := time.NewTicker(eventsEvery)
	defer tick.Stop()
	last := o.After
	var lost time.Time
	for {
		// The report first: what it is about is in the journal already.
		within, cancel := context.WithTimeout(ctx, pulseWithin)
		r, err := cl.Job(within, id)
		var fresh []rest.JournalEntry
		if err == nil {
			fresh, err = cl.ListEvents(within, id, rest.EventOptions{After: last, Text: o.Text})
		}
		cancel()
		switch {
		case ctx.Err() != nil:
			return &exitError{code: ExitInterrupted}
		case err != nil && !job.KindOf(err).Retryable():
			return err
		case err != nil && lost.IsZero():
			lost = time.Now()
			s.Say("%s", lostText(err))
		case err == nil && !lost.IsZero():
			s.Say("%s", backText(time.Since(lost)))
			lost = time.Time{}
		}
		for _, e := range fresh {
			last = e.ID
			if !asJSON {
				writeEvent(s.Out, e)
				continue
			}
			if err := json.NewEncoder(jsonWriter{s.Out}).Encode(e); err != nil {
				return err
			}
		}
		if err == nil && Ended(r) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &exitError{code: ExitInterrupted}
		}
	}
}
