package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
)

const preflightHelp = `Checks whether a VM could be moved, and changes nothing: the vCenter, the VM and its disks,
change tracking, privileges, and each target: whether it fits, whose it is, and whether others have written to it. It
takes the flags of vmferry run that describe the job, and answers as that job would: with --adopt a target of others is
ok, with --strict one that others have written to is not.

Exit code 0 if every check is ok, else 1.`

func newPreflightCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "preflight VM", Short: "Check whether a VM could be moved", Long: preflightHelp,
		Example: "  vmferry preflight /DC0/vm/web\n  vmferry preflight web --target disk-2000=/dev/vg/web -o json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	at, out, f := serverFlag(c, s), OutputFlag(c, AsTable, AsJSON, AsYAML), &runFlags{}
	f.addSpec(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		spec, err := f.spec(args[0])
		if err != nil {
			return err
		}
		cl, err := at.client()
		if err != nil {
			return err
		}
		report, err := cl.Preflight(c.Context(), spec)
		if err != nil {
			return err
		}
		return writePreflight(s, out, report)
	}
	return c
}

func writePreflight(s Streams, out *Output, report rest.PreflightReport) error {
	if out.Structured() {
		if err := out.Data(s.Out, report); err != nil {
			return err
		}
	}
	failed := 0
	for _, k := range report.Checks {
		state := "ok"
		if !k.OK {
			state = "failed"
			failed++
		}
		if !out.Structured() {
			CheckLine(s, state, k.Name, k.Message, k.Next)
		}
	}
	if failed > 0 {
		return &exitError{ExitFailed, fmt.Errorf("%d of %d checks failed; nothing was changed", failed,
			len(report.Checks))}
	}
	return nil
}

// CheckLine writes one check of preflight or doctor.
func CheckLine(s Streams, state, name, message, next string) {
	p := Paint(s.Coloured(s.Out))
	mark := map[string]func(string) string{"ok": p.green, "failed": p.red}[state]
	if mark == nil {
		mark = p.dim
	}
	fmt.Fprintf(s.Out, "%s  %-20s %s\n", mark(fmt.Sprintf("%-7s", state)), name, OneLine(message))
	if next != "" {
		fmt.Fprintf(s.Out, "         %-20s %s\n", "", p.blue("next: ")+next)
	}
}
