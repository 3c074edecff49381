//go:build slim

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/spf13/cobra"
)

// The slim program has all commands but those that need the daemon's packages, and so half the memory and half the time
// to start. The whole program, from the same sources, stands beside it and carries out the others (docs/adr/0013).
const wholeName = "vmferryd"

// handedOver are the commands that only the whole program has, with what the list of commands says of them.
func handedOver() map[string]string {
	return map[string]string{"demo": demoShort, "serve": serveShort, "sim": simShort, "doctor": doctorShort}
}

func newDemoCommand(streams) *cobra.Command   { return elsewhere("demo") }
func newServeCommand(streams) *cobra.Command  { return elsewhere("serve") }
func newSimCommand(streams) *cobra.Command    { return elsewhere("sim") }
func newDoctorCommand(streams) *cobra.Command { return elsewhere("doctor") }

// elsewhere is a command's place in the list. Only a command line with flags before the command's name comes to run it.
func elsewhere(name string) *cobra.Command {
	return &cobra.Command{
		Use: name, Short: handedOver()[name], DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error { return &exitError{code: handOver(os.Args[1:])} },
	}
}

// isForWhole says whether a command line, or what is asked about one, is for the whole program.
func isForWhole(args []string) bool {
	if len(args) > 1 && slices.Contains([]string{"help", cobra.ShellCompRequestCmd, cobra.ShellCompNoDescRequestCmd},
		args[0]) {
		args = args[1:]
	}
	if len(args) == 0 {
		return false
	}
	_, ok := handedOver()[args[0]]
	return ok
}

// handOver makes this process the whole program, with the same arguments. It returns only if that fails, with the exit
// code.
func handOver(args []string) int {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	path := filepath.Join(filepath.Dir(self), wholeName)
	if err == nil {
		err = syscall.Exec(path, append([]string{"vmferry"}, args...), append(os.Environ(), starterVersion+"="+version)) //nolint:gosec // the file beside our own
	}
	fmt.Fprintf(os.Stderr, "error: start %s: %v\nnext: install %s beside %s; it has the daemon and the rehearsals\n",
		path, err, wholeName, self)
	return exitFailed
}
