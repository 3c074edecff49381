package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/report"
)

const getHelp = `Lists jobs or the VMs of the vCenter, or shows one job or its disks. get alone is get jobs.

An empty list is no error: -o json prints [] and the exit code is 0. An unknown job ends with exit code 10.`

const getExample = `  vmferry get
  vmferry get jobs --status running -o wide
  vmferry get job job-20250925-134230.513-8034ee -o json | jq .overall_percent
  vmferry get disks job-20250925-134230.513-8034ee
  vmferry get vms prod`

func newGetCommand(s Streams) *cobra.Command {
	list := newGetJobs(s)
	c := &cobra.Command{
		Use: "get", Short: "List jobs or VMs, or show one job or its disks", Long: getHelp,
		Example: getExample, Args: cobra.NoArgs, RunE: list.RunE,
	}
	c.Flags().AddFlagSet(list.Flags())
	c.AddCommand(list, newGetJob(s), newGetDisks(s), newGetVMs(s), newGetNodes(s), newGetHistory(s))
	return c
}

func newGetJobs(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "jobs", Short: "List jobs, newest first",
		Long:    "Lists jobs, newest first. An empty list is no error: the exit code is 0.",
		Example: "  vmferry get jobs --health stalled -o name", Args: cobra.NoArgs,
	}
	at, out, f := serverFlag(c, s), OutputFlag(c), jobFilter{}
	c.Flags().StringVar(&f.status, "status", "",
		"only jobs of this status: pending, running, paused, waiting_cutover, completed, failed, cancelled, "+
			"and at an OMA unreachable, lost")
	c.Flags().StringVar(&f.health, "health", "",
		"only jobs with this flag: throttled, retrying, unavailable, silent, stalled, degraded, stale")
	c.Flags().StringVar(&f.vm, "vm", "", "only jobs of this VM")
	c.Flags().StringVar(&f.node, "node", "", "at an OMA: only jobs of this node")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		all, err := jobs(c.Context(), cl, f)
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, all)
		}
		if len(all) == 0 {
			s.Say("no jobs")
		}
		return jobTable(s, out, all)
	}
	return c
}

func jobTable(s Streams, out *Output, all []report.Report) error {
	if out.form == AsName {
		for _, r := range all {
			fmt.Fprintln(s.Out, r.JobID)
		}
		return nil
	}
	if len(all) == 0 {
		return nil
	}
	head := []string{"JOB", "VM", "STATUS", "PHASE", "ROUND", "PERCENT", "SPEED", "ETA", "HEALTH"}
	far := slices.ContainsFunc(all, func(r report.Report) bool { return r.Node != "" })
	if far {
		head = append(head, "NODE")
	}
	if out.form == AsWide {
		head = append(head, "TRANSFERRED", "SKIPPED", "RESENT", "CREATED", "OPERATION")
	}
	var rows [][]string
	for _, r := range all {
		row := []string{
			string(r.JobID), vmText(r.VM), statusText(r), string(r.Phase), strconv.Itoa(r.Round),
			fmt.Sprintf("%.1f%%", cut(r.OverallPercent, 1)), speedText(r.BytesPerSecond), etaText(r.ETASeconds),
			healthText(r.Health),
		}
		if far {
			row = append(row, orUnknown(r.Node))
		}
		if out.form == AsWide {
			row = append(row, sizeText(r.BytesTransferred), sizeText(r.BytesSkipped), sizeText(r.BytesResent),
				timeText(&r.CreatedAt), OneLine(r.Operation))
		}
		rows = append(rows, row)
	}
	return Table(s.Out, head, rows)
}

func newGetJob(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "job ID", Short: "Show one job", Long: "Shows one job. An unknown job ends with exit code 10.",
		Example: "  vmferry get job ID -o yaml", Args: cobra.ExactArgs(1), ValidArgsFunction: completeJobs(),
	}
	at, out := serverFlag(c, s), OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := at.job(c.Context(), args[0])
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, r)
		}
		return jobTable(s, out, []report.Report{r})
	}
	return c
}

func newGetDisks(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "disks ID", Short: "List the disks of a job",
		Long:    "Lists the disks of a job and their progress. An unknown job ends with exit code 10.",
		Example: "  vmferry get disks ID -o wide",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeJobs(),
	}
	at, out := serverFlag(c, s), OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := at.job(c.Context(), args[0])
		switch {
		case err != nil:
			return err
		case out.Structured():
			return out.Data(s.Out, r.Disks)
		default:
			return diskTable(s, out, r.Disks)
		}
	}
	return c
}

func newGetVMs(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "vms [TEXT]", Short: "List the VMs of the vCenter",
		Long: "Lists the VMs of the vCenter, or those with a text in their name or path. The daemon asks the\n" +
			"vCenter at most every 30 s. An empty list is no error: the exit code is 0.",
		Example: "  vmferry get vms\n  vmferry get vms /DC0/vm/prod/ -o wide", Args: cobra.MaximumNArgs(1),
	}
	at, out := serverFlag(c, s), OutputFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		list, err := cl.VMs(c.Context(), strings.Join(args, ""))
		switch {
		case err != nil:
			return err
		case out.Structured():
			return out.Data(s.Out, list.VMs)
		case len(list.VMs) == 0:
			s.Say("no VMs")
		}
		if len(list.Missing) > 0 {
			s.Say("the VMs of these nodes are missing: " + strings.Join(list.Missing, ", "))
		}
		return vmTable(s, out, list.VMs)
	}
	return c
}

func vmTable(s Streams, out *Output, vms []rest.VM) error {
	if out.form == AsName {
		for _, v := range vms {
			fmt.Fprintln(s.Out, OneLine(v.Path))
		}
		return nil
	}
	if len(vms) == 0 {
		return nil
	}
	head := []string{"PATH", "POWER", "CBT", "DISKS", "CAPACITY", "JOB"}
	if out.form == AsWide {
		head = append(head, "HOST", "REF", "UUID", "UNFIT")
	}
	var rows [][]string
	for _, v := range vms {
		cbt, runs, unfit := "off", unknown, ""
		if v.CBTEnabled {
			cbt = "on"
		}
		if v.JobID != nil {
			runs = string(*v.JobID)
		}
		if v.Template {
			unfit = "template"
		}
		for _, d := range v.Disks {
			if d.Unfit != "" {
				unfit = string(d.DiskID) + ": " + d.Unfit
			}
		}
		row := []string{
			OneLine(v.Path), orUnknown(v.PowerState), cbt, strconv.Itoa(len(v.Disks)), sizeText(v.BytesCapacity), runs,
		}
		if out.form == AsWide {
			row = append(row, orUnknown(OneLine(v.Host)), v.Ref, orUnknown(v.UUID), Clip(orUnknown(OneLine(unfit)), 60))
		}
		rows = append(rows, row)
	}
	return Table(s.Out, head, rows)
}

func diskTable(s Streams, out *Output, disks []report.Disk) error {
	if out.form == AsName {
		for _, d := range disks {
			fmt.Fprintln(s.Out, OneLine(string(d.DiskID)))
		}
		return nil
	}
	head := []string{
		"DISK", "STATUS", "PERCENT", "TRANSFERRED", "SKIPPED", "OF", "SPEED", "ETA", "RESTARTS", "LAST CAUSE",
	}
	if out.form == AsWide {
		head = append(head, "DURABLE", "RESENT", "TRANSPORT", "PID", "TARGET")
	}
	var rows [][]string
	for _, d := range disks {
		row := []string{
			string(d.DiskID), string(d.Status), PercentText(d.Percent), sizeText(d.BytesTransferred),
			sizeText(d.BytesSkipped), sizePointerText(d.BytesToTransfer), speedText(d.BytesPerSecond),
			etaText(d.ETASeconds), strconv.Itoa(d.Restarts), Clip(orUnknown(causeText(d.LastCause)), 60),
		}
		if out.form == AsWide {
			row = append(row, sizeText(d.BytesDurable), sizeText(d.BytesResent), orUnknown(d.Transport),
				strconv.Itoa(d.SourcePID), d.Target)
		}
		rows = append(rows, row)
	}
	return Table(s.Out, head, rows)
}

func orUnknown(t string) string {
	if t == "" {
		return unknown
	}
	return t
}
