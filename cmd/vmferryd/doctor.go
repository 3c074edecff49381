package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/app"
	"github.com/vmferry/vmferry/cmd/internal/cli"
	"github.com/vmferry/vmferry/job"
)

const doctorHelp = `Checks what the daemon needs on this machine, with the configuration of vmferry serve: programs and
their versions, the configuration, paths and folders, the journal and its copies, the vCenter, Redis. Each check is ok,
failed with the package to install or the key to set, or skipped because nothing needs it.

It writes an empty file into each folder and a test job into Redis, with the daemon's own scripts, and removes them. It
logs in to the vCenter, but not with a password that the vCenter has refused the daemon that runs: that could lock the
account.

Exit code 0 if no check failed, else 1.`

func newDoctorCommand(s cli.Streams) *cobra.Command {
	c := cli.DaemonCommands()["doctor"]
	c.Long, c.Args = doctorHelp, cobra.NoArgs
	c.Example = "  vmferry doctor\n  vmferry doctor --config /etc/vmferry/vmferry.yaml -o json"
	out, f := cli.OutputFlag(c, cli.AsTable, cli.AsJSON, cli.AsYAML), configFlags(c, s)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, ignored, err := f.load()
		checks := []app.Check{configCheck(f, ignored, err)}
		if err != nil {
			cfg = app.DefaultConfig()
			cfg.StateDir = app.StandardStateDir()
			cfg.Targets.Roots = []string{cfg.StateDir}
		}
		checks = append(checks, app.Doctor(c.Context(), cfg)...)
		if out.Structured() {
			if err := out.Data(s.Out, checks); err != nil {
				return err
			}
		}
		failed := 0
		for _, k := range checks {
			if k.State == app.CheckFailed {
				failed++
			}
			if !out.Structured() {
				cli.CheckLine(s, k.State, k.Name, k.Message, k.Next)
			}
		}
		if failed > 0 {
			return cli.Exit(cli.ExitFailed, fmt.Errorf("%d of %d checks failed", failed, len(checks)))
		}
		return nil
	}
	return c
}

func configCheck(f *configFlag, ignored []string, err error) app.Check {
	if err != nil {
		return app.Check{Name: "configuration", State: app.CheckFailed, Message: err.Error(), Next: job.NextOf(err)}
	}
	file := f.file
	if file == "" {
		file = "the defaults"
		if _, err := os.Stat(app.StandardFile); err == nil {
			file = app.StandardFile
		}
	}
	text := "read from " + file
	if len(ignored) > 0 {
		text += fmt.Sprintf("; these environment variables are unknown: %v", ignored)
	}
	return app.Check{Name: "configuration", State: app.CheckOK, Message: text}
}
