package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/cmd/internal/cli"
)

const serveHelp = `Runs the daemon in the foreground, until SIGTERM or Ctrl-C. Then running disks flush and record their
progress, within 10 seconds, and the next start goes on from there; it also does after a crash or kill -9. A second
signal ends the daemon at once. SIGHUP is ignored.

Without a configuration the daemon serves on loopback with its state in /var/lib/vmferry (root) or
~/.local/state/vmferry, and refuses jobs until a vCenter is configured. Every key of the file can be set by a variable
VMFERRY_<SECTION>_<KEY> or by --set. An unknown key is refused with the nearest known key. Logs go to standard error.

Exit code 2 if the configuration cannot work: then nothing is started. Exit code 7 if another daemon uses the state
directory.`

const serveExample = `  vmferry serve
  vmferry serve --config /etc/vmferry/vmferry.yaml
  VMFERRY_VCENTER_URL=https://vc.example.org vmferry serve --set vcenter.user=u --set vcenter.password_file=/etc/vc
  vmferry serve --listen unix:/run/vmferry/vmferry.sock`

// memoryLimit is the size from which the Go runtime collects garbage more often. It does not include the memory of
// libnbd and nbdkit.
const memoryLimit = 256 << 20

func newServeCommand(s cli.Streams) *cobra.Command {
	c := cli.DaemonCommands()["serve"]
	c.Long, c.Example, c.Args = serveHelp, serveExample, cobra.NoArgs
	out, f := cli.OutputFlag(c, cli.AsTable, cli.AsJSON), configFlags(c, s)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, ignored, err := f.load()
		if err != nil {
			return err
		}
		if s.Getenv("GOMEMLIMIT") == "" {
			debug.SetMemoryLimit(memoryLimit)
		}
		_, tty := cli.Terminal(s.Err)
		log := app.NewLogger(s.Err, cfg.Log, tty, s.Coloured(s.Err))
		for _, name := range ignored {
			log.Warn("unknown environment variable", "name", name)
		}
		redis.SetLogger(redisLog{log}) // else it writes lines of its own form, one for each try
		// A daemon outlives its terminal and the reader of its log.
		signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE, syscall.SIGUSR1, syscall.SIGUSR2)
		return app.Run(c.Context(), cfg, log, cli.Version(), func(d *app.Daemon) {
			if out.Structured() {
				// fails only if the reader of standard output has gone
				_ = out.Data(s.Out, servingOf(d, cfg))
			}
		})
	}
	return c
}

// serving is what serve -o json writes when the daemon is ready.
type serving struct {
	URL       string `json:"url"`                  // that asks this user for no token
	SecureURL string `json:"secure_url,omitempty"` // that is served over TLS
	PID       int    `json:"pid"`
	Version   string `json:"version"`
	StateDir  string `json:"state_dir"`
}

func servingOf(d *app.Daemon, cfg app.Config) serving {
	out := serving{URL: d.URL(), PID: os.Getpid(), Version: cli.Version(), StateDir: cfg.StateDir}
	if a := d.SecureAddr(); a != nil {
		out.SecureURL = "https://" + a.String()
	}
	return out
}

// configFlag holds the flags that name the configuration file and change its keys.
type configFlag struct {
	file, role, listen, stateDir string
	set                          []string
	changed                      func(string) bool
}

func configFlags(c *cobra.Command, s cli.Streams) *configFlag {
	f := &configFlag{changed: c.Flags().Changed}
	fs := c.Flags()
	fs.StringVar(&f.file, "config", s.Getenv("VMFERRY_CONFIG"), "configuration file (default "+app.StandardFile+
		" if it exists; environment: VMFERRY_CONFIG)")
	fs.StringVar(&f.role, "role", "", "vma (source side), oma (target side) or all (default all)")
	fs.StringVar(&f.listen, "listen", "",
		"address to serve on: host:port, or unix:/path (default 127.0.0.1:8081)")
	fs.StringVar(&f.stateDir, "state-dir", "", "folder of the journal and the checkpoints")
	fs.StringArrayVar(&f.set, "set", nil, "KEY=VALUE: set any key of the configuration, as in limits.jobs=4")
	return f
}

func (f *configFlag) load() (app.Config, []string, error) {
	flags := map[string]string{}
	for name, key := range map[string]string{"role": "role", "listen": "listen", "state-dir": "state_dir"} {
		if f.changed(name) {
			flags[key] = map[string]string{"role": f.role, "listen": f.listen, "state-dir": f.stateDir}[name]
		}
	}
	for _, kv := range f.set {
		key, value, ok := strings.Cut(kv, "=")
		if !ok {
			return app.Config{}, nil, cli.Usage("--set wants KEY=VALUE, as in limits.jobs=4, not %q", kv)
		}
		flags[key] = value
	}
	return app.Load(app.Sources{File: f.file, Environ: os.Environ(), Flags: flags})
}

// redisLog takes what the Redis client says by itself. What matters of it comes back as an error, too.
type redisLog struct{ log *slog.Logger }

// Printf is a line of the Redis client.
func (l redisLog) Printf(ctx context.Context, format string, v ...any) {
	l.log.DebugContext(ctx, "the Redis client says", "text", fmt.Sprintf(format, v...))
}
