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

// server is the --server flag, with what proves who one is there and that it is the right one.
type server struct{ addr, tokenFile, caFile string }

func serverFlag(c *cobra.Command, s Streams) *server {
	at := &server{}
	standard := s.Getenv("VMFERRY_SERVER")
	if standard == "" {
		standard = StandardServer
	}
	c.Flags().StringVar(&at.addr, "server", standard,
		"the daemon, as http://host:port, https://host:port or unix:/path (environment: VMFERRY_SERVER)")
	c.Flags().StringVar(&at.tokenFile, "token-file", s.Getenv("VMFERRY_TOKEN_FILE"),
		"file with the token that the daemon asks for (environment: VMFERRY_TOKEN_FILE)")
	c.Flags().StringVar(&at.caFile, "ca-file", s.Getenv("VMFERRY_CA_FILE"),
		"authority of the daemon's certificate, as PEM; left out, those of this system (environment: VMFERRY_CA_FILE)")
	return at
}

func (at *server) client() (*rest.Client, error) {
	var options []rest.Option
	if at.tokenFile != "" {
		token, err := rest.ReadTokenFile(at.tokenFile)
		if err != nil {
			return nil, err
		}
		options = append(options, rest.WithToken(token))
	}
	if at.caFile != "" {
		pool, err := rest.ReadAuthorities(at.caFile)
		if err != nil {
			return nil, err
		}
		options = append(options, rest.WithAuthorities(pool))
	}
	return rest.NewClient(at.addr, options...)
}

// job finds one job by a word of the command line: its id, or its VM. Of a VM it is the job that has not ended, else
// the newest.
func (at *server) job(ctx context.Context, text string) (report.Report, error) {
	c, err := at.client()
	if err != nil {
		return report.Report{}, err
	}
	return find(ctx, c, text, unfinished)
}

// serverOf is what the flags of a command say while the shell completes it.
func serverOf(c *cobra.Command) *server {
	at := &server{addr: StandardServer}
	for name, into := range map[string]*string{
		"server": &at.addr, "token-file": &at.tokenFile, "ca-file": &at.caFile,
	} {
		if f := c.Flags().Lookup(name); f != nil {
			*into = f.Value.String()
		}
	}
	return at
}

// completeJobs completes ids of the daemon's jobs in the shell, within 2 s.
func completeJobs() cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		at, ctx := serverOf(c), c.Context()
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
