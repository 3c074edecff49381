package cli

import (
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

const limitHelp = `Shows and changes limits while copies run.

With ID it changes the limits of that job: --bandwidth over all its disks, --disks that are copied at the same time,
--patience and --last-round-patience, for which it waits for a vCenter, host, source or target that is unavailable.
Without ID it shows the limits of the node and the use of each ESXi host, or changes the limits that are named. Limits
of bandwidth and of bytes in flight apply to running copies at once, all others to the next job or disk. Limits of the
node are kept over a restart; --reset restores those of the configuration. 0 is no limit.

The default limits of a host are those of VMware's documentation: 50 disks, 52 connections, 48 MiB in flight.`

const limitExample = `  vmferry limit
  vmferry limit job-20250925-134230.513-8034ee --bandwidth 200MiB --disks 2
  vmferry limit job-20250925-134230.513-8034ee --patience 12h
  vmferry limit --disks-per-host 4 --bandwidth-total 1GiB
  vmferry limit --reset`

// limitFlags are the flags of the command. Sizes are texts.
type limitFlags struct {
	bandwidth, total, hostBandwidth, hostBytes string
	jobs, disks, hostDisks, hostConnections    int
	patience                                   patienceFlags
	reset                                      bool
	given                                      func(string) bool
}

func newLimitCommand(s Streams) *cobra.Command {
	l := &limitFlags{}
	c := &cobra.Command{
		Use: "limit [ID]", Short: "Show and change limits", Long: limitHelp, Example: limitExample,
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeJobs(),
	}
	at, out, f := serverFlag(c, s), OutputFlag(c, AsTable, AsJSON, AsYAML), c.Flags()
	f.StringVar(&l.bandwidth, "bandwidth", "", "of a job: bytes per second over all disks, as in 200MiB")
	f.IntVar(&l.disks, "disks", 0, "disks that are copied at the same time, of the job or of the node")
	l.patience.add(c)
	f.IntVar(&l.jobs, "jobs", 0, "of the node: jobs that run at the same time")
	f.StringVar(&l.total, "bandwidth-total", "", "of the node: bytes per second of all jobs together")
	f.IntVar(&l.hostDisks, "disks-per-host", 0, "disks that are read from one ESXi host at the same time")
	f.IntVar(&l.hostConnections, "connections-per-host", 0, "connections to one ESXi host")
	f.StringVar(&l.hostBytes, "bytes-in-flight-per-host", "",
		"bytes requested from one ESXi host that have not arrived")
	f.StringVar(&l.hostBandwidth, "bandwidth-per-host", "", "bytes per second from one ESXi host")
	f.BoolVar(&l.reset, "reset", false, "restore the limits of the configuration")
	l.given = f.Changed
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		if len(args) == 1 {
			return l.ofJob(c, s, cl, args[0])
		}
		r, err := l.ofNode(c, cl)
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, r)
		}
		return writeLimits(s.Out, r)
	}
	return c
}

func (l *limitFlags) ofJob(c *cobra.Command, s Streams, cl *rest.Client, text string) error {
	id, err := job.ParseID(text)
	if err != nil {
		return err
	}
	for _, name := range []string{
		"jobs", "bandwidth-total", "disks-per-host", "connections-per-host",
		"bytes-in-flight-per-host", "bandwidth-per-host", "reset",
	} {
		if l.given(name) {
			return Usage("--%s is a limit of the node: leave the job's ID out", name)
		}
	}
	var change job.Limited
	rate, err := l.size("bandwidth", l.bandwidth)
	if err != nil {
		return err
	}
	change.Bandwidth = (*int64)(rate)
	change.Disks = l.number("disks", l.disks)
	if err := l.patience.change(&change, l.given); err != nil {
		return err
	}
	if change == (job.Limited{}) {
		return Usage("name --bandwidth, --disks, --patience or --last-round-patience; "+
			"vmferry describe %s shows the job", id)
	}
	if err := cl.ChangeLimits(c.Context(), id, change); err != nil {
		return err
	}
	s.Say("%s: limits changed", id)
	return nil
}

func (l *limitFlags) ofNode(c *cobra.Command, cl *rest.Client) (r rest.LimitsReport, err error) {
	if l.given("bandwidth") {
		return r, Usage("--bandwidth is of a job: name its ID, or use --bandwidth-total")
	}
	for _, name := range []string{patienceFlag, lastRoundFlag} {
		if l.given(name) {
			return r, Usage("--%s is of a job: name its ID, or set the key in the configuration", name)
		}
	}
	p := rest.LimitsPatch{
		Jobs: l.number("jobs", l.jobs), Disks: l.number("disks", l.disks),
		HostDisks:       l.number("disks-per-host", l.hostDisks),
		HostConnections: l.number("connections-per-host", l.hostConnections),
	}
	for _, f := range []struct {
		name, text string
		into       **rest.Rate
	}{
		{"bandwidth-total", l.total, &p.Bandwidth},
		{"bytes-in-flight-per-host", l.hostBytes, &p.HostBytes},
		{"bandwidth-per-host", l.hostBandwidth, &p.HostBandwidth},
	} {
		if *f.into, err = l.size(f.name, f.text); err != nil {
			return r, err
		}
	}
	switch {
	case l.reset && p != (rest.LimitsPatch{}):
		return r, Usage("--reset changes all limits: name no others")
	case l.reset:
		return cl.ResetLimits(c.Context())
	case p == (rest.LimitsPatch{}):
		return cl.Limits(c.Context())
	default:
		return cl.SetLimits(c.Context(), p)
	}
}

func (l *limitFlags) number(name string, n int) *int {
	if !l.given(name) {
		return nil
	}
	return &n
}

func (l *limitFlags) size(name, text string) (*rest.Rate, error) {
	if !l.given(name) {
		return nil, nil
	}
	n, err := job.ParseSize(text)
	if err != nil {
		return nil, Usage("--%s: %v", name, err)
	}
	r := rest.Rate(n)
	return &r, nil
}

func writeLimits(w io.Writer, r rest.LimitsReport) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, value string) { fmt.Fprintf(t, "%s\t%s\n", name, value) }
	number := func(n int) string {
		if n == 0 {
			return "no limit"
		}
		return strconv.Itoa(n)
	}
	size := func(n int64, per string) string {
		if n == 0 {
			return "no limit"
		}
		return sizeText(n) + per
	}
	l := r.Limits
	row("jobs", number(l.Jobs))
	row("disks", number(l.Disks))
	row("bandwidth-total", size(l.Bandwidth, "/s"))
	row("disks-per-host", number(l.HostDisks))
	row("connections-per-host", number(l.HostConnections))
	row("bytes-in-flight-per-host", size(l.HostBytes, ""))
	row("bandwidth-per-host", size(l.HostBandwidth, "/s"))
	for _, h := range r.Hosts {
		row("in use of "+orDefault(h.Host, "an unnamed host"),
			fmt.Sprintf("%d disks (%d wait), %d connections, %s in flight", h.Disks, h.Waiting, h.Connections,
				sizeText(h.BytesInFlight)))
	}
	return t.Flush()
}
