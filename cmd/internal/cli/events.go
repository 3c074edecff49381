package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

const eventsHelp = `Lists the events of a job, oldest first: commands, actions, failures and retries. The list is the
job's journal, so it outlives the daemon.

An unknown job ends with exit code 10.`

func newEventsCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "events ID", Aliases: []string{"logs"}, Short: "List the events of a job", Long: eventsHelp,
		Example: "  vmferry events ID\n  vmferry logs ID -o json | jq '.[] | select(.type == \"disk_fell\")'",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeJobs(),
	}
	at, out := serverFlag(c, s), OutputFlag(c, AsTable, AsJSON, AsYAML)
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := at.job(c.Context(), args[0])
		if err != nil {
			return err
		}
		cl, err := at.client()
		if err != nil {
			return err
		}
		all, err := cl.Events(c.Context(), r.JobID)
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, all)
		}
		for _, e := range all {
			fmt.Fprintf(s.Out, "%s  %4d  %-16s %s\n", timeText(&e.At), e.Seq, e.Type,
				Clip(OneLine(string(e.Data)), 160))
		}
		return nil
	}
	return c
}
