package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// StandardServer is the address of a daemon without configuration.
const StandardServer = "http://127.0.0.1:8081"

// server is the --server flag.
type server struct{ addr string }

func serverFlag(c *cobra.Command, s Streams) *server {
	at := &server{}
	standard := s.Getenv("VMFERRY_SERVER")
	if standard == "" {
		standard = StandardServer
	}
	c.Flags().StringVar(&at.addr, "server", standard,
		"the daemon, as http://host:port or unix:/path (environment: VMFERRY_SERVER)")
	return at
}

func (at *server) client() (*rest.Client, error) { return rest.NewClient(at.addr) }

// job finds one job by a word of the command line: its id, or its VM. Of a VM it is the job that has not ended, else
// the newest.
func (at *server) job(ctx context.Context, text string) (report.Report, error) {
	c, err := at.client()
	if err != nil {
		return report.Report{}, err
	}
	return find(ctx, c, text, unfinished)
}

// completeJobs completes ids of the daemon's jobs in the shell, within 2 s.
func completeJobs() cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		at, ctx := server{StandardServer}, c.Context()
		if f := c.Flags().Lookup("server"); f != nil {
			at.addr = f.Value.String()
		}
		cl, err := at.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		all, err := jobs(ctx, cl, jobFilter{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, r := range all {
			if strings.HasPrefix(string(r.JobID), begun) && !slices.Contains(args, string(r.JobID)) {
				out = append(out, cobra.CompletionWithDesc(string(r.JobID), vmText(r.VM)+", "+string(r.Status)))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// jobFilter selects jobs. Empty fields select all.
type jobFilter struct{ status, health, vm, node string }

// jobs lists jobs, newest first.
func jobs(ctx context.Context, c *rest.Client, f jobFilter) ([]report.Report, error) {
	o := rest.ListOptions{VM: f.vm, Node: f.node}
	if f.status != "" {
		o.Status = []job.Status{job.Status(f.status)}
	}
	if f.health != "" {
		o.Health = []report.Health{report.Health(f.health)}
	}
	return c.Jobs(ctx, o)
}
