// Command vmferryd is all of vmferry: the daemon, the demo, the simulators, and each command of the client.
package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(commands)) }

// commands are the commands that vmferry hands over.
func commands(s cli.Streams) []*cobra.Command {
	return []*cobra.Command{newDemoCommand(s), newServeCommand(s), newSimCommand(s), newDoctorCommand(s)}
}
