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
		Use: "version", Short: "Tell the version",
		Long: "Tells the version of this program and what it was built from.", Example: "  vmferry version -o json",
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

// StarterVersion is the environment variable in which vmferry tells the vmferryd that it becomes its version.
const StarterVersion = "VMFERRY_STARTER_VERSION"

// greetStarter warns of a vmferry of another version: who updates one of the two files forgets the other.
func greetStarter(s Streams) {
	starter, started := os.LookupEnv(StarterVersion)
	if !started {
		return
	}
	_ = os.Unsetenv(StarterVersion) // fails only for names that no variable can have; what we start is not meant
	if starter != version {
		fmt.Fprintf(s.Err,
			"warning: vmferry is %s, and vmferryd, which it started, is %s\nnext: install both from the same release\n",
			starter, version)
	}
}
