// Command vmferry moves running VMware VMs to a KVM cloud: it asks the daemon, and copies disks without one. For the
// commands that need the daemon's packages it becomes vmferryd, the program beside it (docs/adr/0013).
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/cmd/internal/cli"
)

func main() {
	if isForDaemon(os.Args[1:]) {
		os.Exit(handOver(os.Args[1:])) // before cli.Main catches signals: vmferryd must get them all
	}
	os.Exit(cli.Main(handedOver))
}

// handedOver are vmferryd's commands, for the list of commands. Only a command line with flags before the command's
// name comes to run one.
func handedOver(cli.Streams) (commands []*cobra.Command) {
	for _, c := range cli.DaemonCommands() {
		c.DisableFlagParsing = true
		c.RunE = func(*cobra.Command, []string) error { return cli.Exit(handOver(os.Args[1:]), nil) }
		commands = append(commands, c)
	}
	return commands
}

// isForDaemon says whether a command line, or a request for help or completions, is for vmferryd.
func isForDaemon(args []string) bool {
	asks := []string{"help", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd}
	if len(args) > 1 && slices.Contains(asks, args[0]) {
		args = args[1:]
	}
	return len(args) > 0 && cli.DaemonCommands()[args[0]] != nil
}

// handOver makes this process vmferryd, with the same arguments. It returns only if that fails, with the exit code.
func handOver(args []string) int {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	path := filepath.Join(filepath.Dir(self), "vmferryd")
	if err == nil {
		err = syscall.Exec(path, append([]string{"vmferry"}, args...), //nolint:gosec // the file beside our own
			append(os.Environ(), cli.StarterVersion+"="+cli.Version()))
	}
	fmt.Fprintf(os.Stderr, "error: start %s: %v\n", path, err)
	fmt.Fprintf(os.Stderr, "next: install vmferryd beside %s; it holds the daemon, the demo and the simulators\n", self)
	return cli.ExitFailed
}
