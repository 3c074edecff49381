package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func newVersionCommand(s streams) *cobra.Command {
	c := &cobra.Command{
		Use: "version", Short: "Tell the version",
		Long: "Tells the version of this program and what it was built from.", Example: "  vmferry version -o json",
		Args: cobra.NoArgs,
	}
	out := outputFlag(c, asTable, asJSON, asYAML)
	c.RunE = func(*cobra.Command, []string) error {
		v := struct {
			Version  string `json:"version"`
			Revision string `json:"revision"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		}{version, revision(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		if out.structured() {
			return out.data(s.out, v)
		}
		_, err := fmt.Fprintf(s.out, "vmferry %s %s %s %s\n", v.Version, orUnknown(v.Revision), v.Go, v.Platform)
		return err
	}
	return c
}

// revision is the commit this was built from; "" if the build did not record it.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return ""
}

// starterVersion is the environment variable in which the slim program tells the whole one its version.
const starterVersion = "VMFERRY_STARTER_VERSION"

// greetStarter warns of a slim program of another version: who updates one of the two files forgets the other.
func greetStarter(s streams) {
	starter, started := os.LookupEnv(starterVersion)
	if !started {
		return
	}
	_ = os.Unsetenv(starterVersion) // fails only for names that no variable can have; what we start is not meant
	if starter != version {
		fmt.Fprintf(s.err,
			"warning: vmferry is %s, and vmferryd, which it started, is %s\nnext: install both from the same release\n",
			starter, version)
	}
}
