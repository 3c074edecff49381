package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/job"
)

const rootHelp = `vmferry moves running VMware VMs to a KVM cloud. A daemon (vmferry serve) does the work;
the other commands send requests to it, at --server or $VMFERRY_SERVER.

Data goes to standard output, progress and messages to standard error. Exit codes: 0 ok, 1 failed, 2 usage,
3 the job or copy failed, 4 authentication, 5 cancelled, 6 timed out waiting, 7 conflict, 10 not found,
130 interrupted.`

const rootExample = `  vmferry demo                      rehearse a migration on this machine, in about a minute
  vmferry run /DC0/vm/web           move a VM and watch it
  vmferry watch                     watch the newest job`

// The groups of commands in the help.
const (
	groupFirst = "first"
	groupJobs  = "jobs"
	groupNode  = "node"
)

// DaemonCommands are the commands that only vmferryd carries out, by name, as the list of commands shows them.
func DaemonCommands() map[string]*cobra.Command {
	return map[string]*cobra.Command{
		"demo":   {Use: "demo", GroupID: groupFirst, Short: "Rehearse a migration on this machine"},
		"serve":  {Use: "serve", GroupID: groupNode, Short: "Run the daemon"},
		"sim":    {Use: "sim", GroupID: groupNode, Short: "Simulate a vCenter or an NBD server"},
		"doctor": {Use: "doctor", GroupID: groupNode, Short: "Check this machine and the configuration"},
	}
}

// Execute runs one command line and returns its exit code. more are commands beside the shared ones. Execute alone
// writes the error and the next step.
func Execute(ctx context.Context, s Streams, args []string, more ...*cobra.Command) int {
	root := NewRoot(s, more...) //nolint:contextcheck // cobra hands ctx to each command
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	code := exitCode(err)
	var silent *exitError
	if err == nil || errors.As(err, &silent) && silent.err == nil {
		return code
	}
	p := Paint(s.Coloured(s.Err))
	s.Say("%s %s", p.red("error:"), shownLines(strings.TrimSpace(err.Error())))
	if next := job.NextOf(cause(err)); next != "" {
		s.Say("%s %s", p.blue("next:"), shownText(next))
	} else if code == ExitUsage {
		s.Say("%s %s --help", p.blue("next:"), strings.TrimSpace("vmferry "+commandName(root, args)))
	}
	return code
}

// cause is the job.Error in err, without our marks around it: job.NextOf does not unwrap these.
func cause(err error) error {
	if e, ok := errors.AsType[*job.Error](err); ok {
		return e
	}
	return err
}

// commandName is the part of the arguments that names a command.
func commandName(root *cobra.Command, args []string) string {
	c, _, err := root.Find(args)
	if err != nil || c == nil {
		return ""
	}
	return strings.TrimPrefix(strings.TrimPrefix(c.CommandPath(), root.Name()), " ")
}

// NewRoot makes the command that holds all others: the shared ones, and more.
func NewRoot(s Streams, more ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: "vmferry", Short: "Move running VMware VMs to a KVM cloud", Long: rootHelp, Example: rootExample,
		Version: version, SilenceUsage: true, SilenceErrors: true, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.SetIn(s.In)
	c.SetOut(s.Out)
	c.SetErr(s.Err)
	c.CompletionOptions.HiddenDefaultCmd = false
	for _, g := range []cobra.Group{
		{ID: groupFirst, Title: "Begin here:"},
		{ID: groupJobs, Title: "Jobs:"},
		{ID: groupNode, Title: "This machine:"},
	} {
		c.AddGroup(&g)
	}
	grouped(c, groupFirst, newRunCommand(s), newWatchCommand(s))
	grouped(c, groupJobs, newGetCommand(s), newDescribeCommand(s), newEventsCommand(s), newReportCommand(s),
		newPreflightCommand(s), newFollowCommand(s))
	grouped(c, groupJobs, newVerbCommands(s)...)
	grouped(c, groupNode, newLimitCommand(s), newVolumesCommand(s), newTokenCommand(s),
		newCertCommand(s), newNodeCommand(s), newChaosCommand(s),
		newCopyCommand(s), newVersionCommand(s))
	c.AddCommand(more...)
	mark(c)
	return c
}

func grouped(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// mark wraps the errors of each command's work in ran.
func mark(c *cobra.Command) {
	if work := c.RunE; work != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			if err := work(c, args); err != nil {
				return ran{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		mark(sub)
	}
}

// Usage is an error in how a command was called, found by the command itself.
func Usage(format string, args ...any) error {
	return &exitError{ExitUsage, fmt.Errorf(format, args...)}
}
