package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
)

const historyHelp = `Lists the jobs in the tables that the history is kept in, the newest first: also those that were
deleted, and those of the older chain. A daemon that keeps no history in SQL ends with exit code 10; vmferry get jobs
lists the jobs that it knows.

--since and --until take a time before now such as 36h or 7d, or a date or time in UTC. They are compared with the time
at which a job was created. An empty list is no error: -o json prints [] and the exit code is 0.`

const historyExample = `  vmferry get history
  vmferry get history --status failed --since 7d
  vmferry get history --node vma-1 --since 2026-10-01 --until 2026-11-01 --limit 0 -o json`

const historyRows = 100 // that are listed where nothing else is said

func newGetHistory(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "history", Short: "List the jobs of the history in SQL", Long: historyHelp, Example: historyExample,
		Args: cobra.NoArgs,
	}
	at, out := serverFlag(c, s), OutputFlag(c)
	var f rest.HistoryFilter
	var since, until string
	var limit int
	c.Flags().StringSliceVar(&f.Status, "status", nil,
		"only jobs of these statuses: pending, running, paused, completed, failed, cancelled, unreachable, lost")
	c.Flags().StringVar(&f.VM, "vm", "", "only jobs of VMs with this text in their name or path")
	c.Flags().StringVar(&f.Node, "node", "", "only jobs of this node; local is the daemon itself")
	c.Flags().StringVar(&since, "since", "", "only jobs that were created then or later: 7d, 36h, 2026-10-01")
	c.Flags().StringVar(&until, "until", "", "only jobs that were created before then")
	c.Flags().IntVar(&limit, "limit", historyRows, "how many jobs, the newest; 0 for all")
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		now := time.Now()
		if f.From, err = momentOf("since", since, now); err != nil {
			return err
		}
		if f.To, err = momentOf("until", until, now); err != nil {
			return err
		}
		if limit < 0 {
			return Usage("--limit is %d: use 1 or more, or 0 for all", limit)
		}
		cl, err := at.client()
		if err != nil {
			return err
		}
		all, err := cl.History(c.Context(), f, limit)
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, all)
		}
		if len(all) == 0 {
			s.Say("no jobs")
			return nil
		}
		return historyTable(s, out, all)
	}
	return c
}

// momentOf reads a time of a flag: how long before now, or a date or time in UTC; the zero time for "".
func momentOf(flag, text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, form := range []string{time.DateOnly, "2006-01-02 15:04", time.DateTime, time.RFC3339} {
		if t, err := time.Parse(form, text); err == nil {
			return t, nil
		}
	}
	const day, most = 24 * time.Hour, 200 * 365 // of days
	ago, err := time.ParseDuration(text)
	if number, ok := strings.CutSuffix(text, "d"); ok {
		var days int
		days, err = strconv.Atoi(number)
		ago = time.Duration(max(-1, min(days, most+1))) * day
	}
	if err != nil || ago < 0 || ago > most*day {
		return time.Time{}, Usage("--%s is %q: use a time before now such as 36h or 7d, or a date such as 2026-10-01",
			flag, Clip(text, 40))
	}
	return now.Add(-ago), nil
}

func historyTable(s Streams, out *Output, all []rest.HistoryRow) error {
	if out.form == AsName {
		for _, r := range all {
			fmt.Fprintln(s.Out, OneLine(string(r.JobID)))
		}
		return nil
	}
	head := []string{"JOB", "VM", "NODE", "STATUS", "PERCENT", "MOVED", "CREATED", "ENDED", "ERROR"}
	if out.form == AsWide {
		head = append(head, "TYPE", "SKIPPED", "OF", "VCENTER", "PATH", "OPERATION")
	}
	var rows [][]string
	for _, r := range all {
		why := r.Error
		if r.StatusSince != nil {
			why = "since " + timeText(r.StatusSince) + ": " + r.StatusReason
		}
		row := []string{
			OneLine(string(r.JobID)), Clip(orUnknown(OneLine(r.VMName)), 40), orUnknown(OneLine(r.Node)),
			OneLine(r.Status), fmt.Sprintf("%.1f%%", cut(r.Percent, 1)), sizeText(r.BytesMoved), timeText(r.CreatedAt),
			timeText(r.EndedAt), Clip(orUnknown(OneLine(why)), 60),
		}
		if out.form == AsWide {
			row = append(row, orUnknown(OneLine(r.Type)), sizeText(r.BytesSkipped), sizeText(r.BytesToTransfer),
				orUnknown(OneLine(r.VCenter)), orUnknown(OneLine(r.VMPath)), orUnknown(OneLine(r.Operation)))
		}
		rows = append(rows, row)
	}
	return Table(s.Out, head, rows)
}
