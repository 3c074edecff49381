package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

const nodesHelp = `Lists the nodes whose jobs an OMA shows, and those that are linked with this daemon: how each is
seen, since when, and how many of its jobs have which status; with -o wide, how the link with it is. A node of kind
vmferry sends its reports and takes commands; one of kind legacy is an older VMA, which is asked every 5 s for each job
and takes no commands. A daemon that is no OMA and has no link has no nodes.

An empty list is no error: -o json prints [] and the exit code is 0.`

const nodesExample = `  vmferry get nodes
  vmferry get nodes -o json | jq '.[] | select(.state == "unreachable")'
  vmferry get jobs --node vma-1`

func newGetNodes(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "nodes", Short: "List the nodes that an OMA watches", Long: nodesHelp, Example: nodesExample,
		Args: cobra.NoArgs,
	}
	at, out := serverFlag(c, s), OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		all, err := cl.Nodes(c.Context())
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, all)
		}
		if len(all) == 0 {
			s.Say("no nodes")
			return nil
		}
		return nodeTable(s, out, all)
	}
	return c
}

func nodeTable(s Streams, out *Output, all []rest.Node) error {
	if out.form == AsName {
		for _, n := range all {
			fmt.Fprintln(s.Out, n.Name)
		}
		return nil
	}
	head := []string{"NODE", "KIND", "STATE", "SINCE", "JOBS", "REASON"}
	if out.form == AsWide {
		head = append(head, "SEEN", "VERSION", "VCENTER", "URL", "LINK", "LINK SINCE", "ROUND TRIP", "LINK REASON")
	}
	var rows [][]string
	for _, n := range all {
		row := []string{
			n.Name, string(n.Kind), n.State, timeText(&n.Since), countsText(n.Jobs),
			Clip(orUnknown(OneLine(n.Reason)), 60),
		}
		if out.form == AsWide {
			vcenter := unknown
			if n.VCenter != nil {
				vcenter = string(n.VCenter.State)
			}
			row = append(row, timeText(n.SeenAt), orUnknown(OneLine(n.Version)), vcenter, orUnknown(n.URL))
			row = append(row, linkColumns(n.Link)...)
		}
		rows = append(rows, row)
	}
	return Table(s.Out, head, rows)
}

// linkColumns are the state of a link, since when, the round trip, and why it is down.
func linkColumns(l *rest.Link) []string {
	if l == nil {
		return []string{unknown, unknown, unknown, unknown}
	}
	trip := unknown
	if l.RoundTripMS != nil {
		trip = fmt.Sprintf("%.1f ms", *l.RoundTripMS)
	}
	return []string{l.State, timeText(&l.Since), trip, Clip(orUnknown(OneLine(l.Reason)), 60)}
}

// countsText writes how many jobs have which status.
func countsText(counts map[job.Status]int) string {
	var out []string
	for status, n := range counts {
		out = append(out, fmt.Sprintf("%d %s", n, status))
	}
	slices.Sort(out)
	return orUnknown(strings.Join(out, ", "))
}

const followHelp = `Lets an OMA ask an older VMA for a job. Such a VMA has no list of its jobs: whoever starts one there
names it here. The job has 30 s to start; after that it is lost until the VMA knows it. To name it again is no error.

A node that tells of its jobs by itself is refused with exit code 7, a node that is not there with exit code 10.`

// newFollowCommand makes the command that names a job of an older VMA.
func newFollowCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "follow NODE JOB", Short: "Let an OMA watch a job of an older VMA", Long: followHelp,
		Example: "  vmferry follow vma-1 job-20250925-134230.513-8034ee", Args: cobra.ExactArgs(2),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	at, out := serverFlag(c, s), OutputFlag(c, AsName, AsJSON, AsYAML)
	c.RunE = func(c *cobra.Command, args []string) error {
		id, err := job.ParseID(args[1])
		if err != nil {
			return err
		}
		cl, err := at.client()
		if err != nil {
			return err
		}
		r, err := cl.WatchJob(c.Context(), args[0], id)
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, r)
		}
		fmt.Fprintln(s.Out, r.JobID)
		return nil
	}
	return c
}
