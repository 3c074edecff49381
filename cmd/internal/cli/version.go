package cli

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version is the release; the linker sets it.
var version = "dev"

// Version is the release of this program.
func Version() string { return version }

func newVersionCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "version", Short: "Show the version",
		Long: "Shows the version of this program and what it was built from.", Example: "  vmferry version -o json",
		Args: cobra.NoArgs,
	}
	out := OutputFlag(c, AsTable, AsJSON, AsYAML)
	c.RunE = func(*cobra.Command, []string) error {
		v := struct {
			Version  string `json:"version"`
			Revision string `json:"revision"`
			Go       string `json:"go"`
			Platform string `json:"platform"`
		}{version, revision(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
		if out.Structured() {
			return out.Data(s.Out, v)
		}
		_, err := fmt.Fprintf(s.Out, "vmferry %s %s %s %s\n", v.Version, orUnknown(v.Revision), v.Go, v.Platform)
		return err
	}
	return c
}

// revision is the commit of the sources; "" if the build did not record it.
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

// StarterVersion is the environment variable with the version of the vmferry that has become this vmferryd.
const StarterVersion = "VMFERRY_STARTER_VERSION"

// greetStarter warns of a vmferry of another version: an update of one of the two files may forget the other.
func greetStarter(s Streams) {
	starter, started := os.LookupEnv(StarterVersion)
	if !started {
		return
	}
	_ = os.Unsetenv(StarterVersion) // what we start must not see it; fails only for names that no variable can have
	if starter != version {
		fmt.Fprintf(s.Err,
			"warning: vmferry is %s, and vmferryd, which it started, is %s\nnext: install both from the same release\n",
			starter, version)
	}
}
