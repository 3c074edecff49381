package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
)

const volumesHelp = `Lists the targets that the daemon has written, and those that a job which has not ended has
claimed: for each the VM and the disk whose bytes it holds, and the newest job that had it.

A target belongs to one disk of one VM, by whatever name it is called. The next job of that VM and disk takes it over
and moves only what has changed; a job of another VM is refused. Two ways lead out: vmferry run --adopt takes a target
over on purpose, vmferry volumes release gives it up.

STATE is in use (a job that has not ended has it), kept (for the next job of its VM) or released (any job may have it).
With -o wide, ROUNDS counts the rounds that began to write to it, and STAMPED says whether a write of others since the
last round would show. An export has no stamp.

An empty list is no error: -o json prints [] and the exit code is 0.`

const volumesExample = `  vmferry volumes
  vmferry volumes -o wide
  vmferry volumes -o json | jq '.[] | select(.vm_name == "/DC0/vm/web")'
  vmferry volumes release 4QZ2MPX7TNB3KJ5LW6YRAHVD2C`

const releaseHelp = `Gives up a volume by its ID, as vmferry volumes lists it. After that it belongs to no VM: any job
may have it as its target without --adopt, and overwrites it. Also the next job of the VM that had it copies the disk in
full.

The volume itself is not touched: no file is removed, no byte is changed. A volume that a job which has not ended uses
is not released: exit code 7, and the job to wait for or to cancel is named. An unknown ID ends with exit code 10. To
release a volume again is no error.`

func newVolumesCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "volumes", Short: "List targets and whose they are; release one", Long: volumesHelp,
		Example: volumesExample, Args: cobra.NoArgs,
	}
	at, out := serverFlag(c, s), OutputFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		all, err := cl.Volumes(c.Context())
		if err != nil {
			return err
		}
		if out.Structured() {
			return out.Data(s.Out, all)
		}
		if len(all) == 0 {
			s.Say("no volumes")
		}
		return volumeTable(s, out, all)
	}
	c.AddCommand(newReleaseCommand(s))
	return c
}

func volumeTable(s Streams, out *Output, all []rest.Volume) error {
	if out.form == AsName {
		for _, v := range all {
			fmt.Fprintln(s.Out, v.ID)
		}
		return nil
	}
	if len(all) == 0 {
		return nil
	}
	head := []string{"ID", "VM", "DISK", "STATE", "JOB", "TARGET"}
	if out.form == AsWide {
		head = append(head, "SIZE", "ROUNDS", "STAMPED", "MADE BY", "CLAIMED", "ADOPTED", "RELEASED", "VM UUID",
			"VCENTER")
	}
	var rows [][]string
	for _, v := range all {
		row := []string{
			v.ID, OneLine(orUnknown(v.VMName)), orUnknown(string(v.Disk)), volumeState(v), orUnknown(string(v.Job)),
			OneLine(v.Target),
		}
		if out.form == AsWide {
			row = append(row, sizeText(v.Size), strconv.FormatInt(v.Generation, 10), strconv.FormatBool(v.Stamped),
				orUnknown(string(v.MadeByJob)), timeText(&v.ClaimedAt), timeText(v.AdoptedAt), timeText(v.ReleasedAt),
				orUnknown(v.VMUUID), orUnknown(v.VCenter))
		}
		rows = append(rows, row)
	}
	return Table(s.Out, head, rows)
}

func volumeState(v rest.Volume) string {
	switch {
	case v.InUse:
		return "in use"
	case v.ReleasedAt != nil:
		return "released"
	default:
		return "kept"
	}
}

func newReleaseCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "release ID", Short: "Give up a volume, so that any job may have it", Long: releaseHelp,
		Example: "  vmferry volumes release 4QZ2MPX7TNB3KJ5LW6YRAHVD2C", Args: cobra.ExactArgs(1),
		ValidArgsFunction: completeVolumes,
	}
	at := serverFlag(c, s)
	c.RunE = func(c *cobra.Command, args []string) error {
		cl, err := at.client()
		if err != nil {
			return err
		}
		if err := cl.ReleaseVolume(c.Context(), args[0]); err != nil {
			return err
		}
		s.Say("%s: released. Any job may have it now, and copies it in full. The volume itself is as it was", args[0])
		return nil
	}
	return c
}

// completeVolumes completes ids of volumes that can be released, within 2 s.
func completeVolumes(c *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none = cobra.ShellCompDirectiveNoFileComp
	at := serverOf(c)
	cl, err := at.client()
	if err != nil || len(args) > 0 {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
	defer cancel()
	all, err := cl.Volumes(ctx)
	if err != nil {
		return nil, none
	}
	var out []cobra.Completion
	for _, v := range all {
		if strings.HasPrefix(v.ID, begun) && volumeState(v) == "kept" {
			out = append(out, cobra.CompletionWithDesc(v.ID, v.VMName+" "+string(v.Disk)+", "+v.Target))
		}
	}
	return out, none
}
