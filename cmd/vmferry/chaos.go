package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/job"
)

const chaosHelp = `Rehearses failures on a running job, to see that supervision works.

chaos kill ends, with SIGKILL, the nbdkit that reads one disk. The disk is restarted by its supervisor and goes on from
its checkpoint; nothing on the target is lost. It must run on the daemon's machine.`

func newChaosCommand(s streams) *cobra.Command {
	c := &cobra.Command{Use: "chaos", Short: "Rehearse failures on a running job", Long: chaosHelp, Example: "  vmferry chaos kill job-20250925-134230.513-8034ee disk-2001", Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	kill := &cobra.Command{
		Use: "kill ID DISK", Short: "Kill the server that reads a disk", Long: chaosHelp, Example: "  vmferry chaos kill job-20250925-134230.513-8034ee disk-2001",
		Args: cobra.ExactArgs(2), ValidArgsFunction: completeJobs(),
	}
	at := serverFlag(kill, s)
	kill.RunE = func(c *cobra.Command, args []string) error {
		r, err := at.job(c.Context(), args[0])
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.Disks, func(d job.ReportDisk) bool { return string(d.DiskID) == args[1] })
		if i < 0 {
			return job.Errorf("find disk", job.NotFound, "See vmferry get disks "+args[0], "job %s has no %s", r.JobID, args[1])
		}
		if err := killReader(r.Disks[i]); err != nil {
			return err
		}
		s.say("killed nbdkit %d, which read %s; watch it come back: vmferry watch %s", r.Disks[i].SourcePID, args[1], r.JobID)
		return nil
	}
	c.AddCommand(kill)
	return c
}

// killReader kills the nbdkit that reads a disk, and nothing else.
func killReader(d job.ReportDisk) error {
	const op = "kill the reader"
	if d.SourcePID <= 1 {
		return job.Errorf(op, job.Conflict, "Try again while the disk is copied", "nothing reads %s now", d.DiskID)
	}
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.SourcePID), "comm"))
	if err != nil || !strings.HasPrefix(string(name), "nbdkit") {
		return job.Errorf(op, job.Conflict, "Run this on the daemon's machine, while the disk is copied", "process %d is not an nbdkit of this machine", d.SourcePID)
	}
	if err := syscall.Kill(d.SourcePID, syscall.SIGKILL); err != nil {
		return &job.Error{Op: op, Kind: job.Permission, Next: "Run this as the daemon's user", Err: fmt.Errorf("process %d: %w", d.SourcePID, err)}
	}
	return nil
}
