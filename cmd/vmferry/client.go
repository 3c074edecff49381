package main

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const standardServer = "http://127.0.0.1:8081"

// client is the daemon, as the commands want it.
type client struct{ *rest.Client }

// server is the --server flag.
type server struct{ addr string }

func serverFlag(c *cobra.Command, s streams) *server {
	at := &server{}
	standard := s.getenv("VMFERRY_SERVER")
	if standard == "" {
		standard = standardServer
	}
	c.Flags().StringVar(&at.addr, "server", standard,
		"the daemon, as http://host:port or unix:/path (environment: VMFERRY_SERVER)")
	return at
}

func (at *server) client() (*client, error) {
	c, err := rest.NewClient(at.addr)
	if err != nil {
		return nil, err
	}
	return &client{c}, nil
}

// job fetches one job by an id from the command line.
func (at *server) job(ctx context.Context, text string) (report.Report, error) {
	id, err := job.ParseID(text)
	if err != nil {
		return report.Report{}, err
	}
	c, err := at.client()
	if err != nil {
		return report.Report{}, err
	}
	return c.Job(ctx, id)
}

// completeJobs offers the ids of the daemon's jobs to the shell.
func completeJobs() cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		at, ctx := server{standardServer}, c.Context()
		if f := c.Flags().Lookup("server"); f != nil {
			at.addr = f.Value.String()
		}
		cl, err := at.client()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		all, err := cl.jobs(ctx, jobFilter{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, r := range all {
			if strings.HasPrefix(string(r.JobID), begun) {
				out = append(out, cobra.CompletionWithDesc(string(r.JobID), vmText(r.VM)+", "+string(r.Status)))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// jobFilter narrows a list of jobs; empty fields do not.
type jobFilter struct{ status, health, vm string }

// jobs lists jobs, newest first.
func (c *client) jobs(ctx context.Context, f jobFilter) ([]report.Report, error) {
	o := rest.ListOptions{VM: f.vm}
	if f.status != "" {
		o.Status = []job.Status{job.Status(f.status)}
	}
	if f.health != "" {
		o.Health = []report.Health{report.Health(f.health)}
	}
	return c.Jobs(ctx, o)
}
