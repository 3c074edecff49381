package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const chaosHelp = `Causes failures in a running job, to see that supervision works. Each time the supervisor starts the
disk again, and the disk goes on from its checkpoint. Nothing on the target is lost, and the other disks go on.

  kill   ends the nbdkit that reads the disk, with SIGKILL
  stall  stops that nbdkit with SIGSTOP for the time of --for: it hangs, like a host that has lost its storage
  panic  makes the daemon's actor of the disk panic

kill and stall must run on the daemon's machine. See the result with vmferry watch or vmferry events.`

const chaosExample = `  vmferry chaos kill job-20250925-134230.513-8034ee disk-2001
  vmferry chaos stall job-20250925-134230.513-8034ee disk-2001 --for 2m
  vmferry chaos panic job-20250925-134230.513-8034ee disk-2001`

func newChaosCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "chaos", Short: "Cause failures in a running job", Long: chaosHelp,
		Example: chaosExample, Args: cobra.NoArgs, RunE: func(c *cobra.Command, _ []string) error {
			return c.Help()
		},
	}
	length := 90 * time.Second
	stall := newChaos(s, "stall", "Stop the server that reads a disk, for a time",
		func(ctx context.Context, _ *rest.Client, r report.Report, d report.Disk) error {
			return stallReader(ctx, s, d, length, r.JobID)
		})
	stall.Flags().DurationVar(&length, "for", length, "how long it hangs; after 60s the daemon gives it up")
	c.AddCommand(stall,
		newChaos(s, "kill", "Kill the server that reads a disk",
			func(_ context.Context, _ *rest.Client, r report.Report, d report.Disk) error {
				if err := SignalReader(d, syscall.SIGKILL); err != nil {
					return err
				}
				s.Say("killed nbdkit %d, which read %s; see the disk come back: vmferry watch %s",
					d.SourcePID, d.DiskID, r.JobID)
				return nil
			}),
		newChaos(s, "panic", "Make the daemon's actor of a disk panic",
			func(ctx context.Context, cl *rest.Client, r report.Report, d report.Disk) error {
				if err := cl.RehearsePanic(ctx, r.JobID, d.DiskID); err != nil {
					return err
				}
				s.Say("the actor of %s has panicked; see the disk come back: vmferry watch %s", d.DiskID, r.JobID)
				return nil
			}))
	return c
}

// newChaos is a command that causes one kind of failure in one disk of a job.
func newChaos(s Streams, name, short string,
	do func(context.Context, *rest.Client, report.Report, report.Disk) error,
) *cobra.Command {
	c := &cobra.Command{
		Use: name + " ID DISK", Short: short, Long: chaosHelp, Example: chaosExample, Args: cobra.ExactArgs(2),
		ValidArgsFunction: completeJobs(),
	}
	at := serverFlag(c, s)
	c.RunE = func(c *cobra.Command, args []string) error {
		r, err := at.job(c.Context(), args[0])
		if err != nil {
			return err
		}
		i := slices.IndexFunc(r.Disks, func(d report.Disk) bool { return string(d.DiskID) == args[1] })
		if i < 0 {
			return job.Errorf("find disk", job.NotFound, "See vmferry get disks "+args[0], "job %s has no %s", r.JobID,
				args[1])
		}
		cl, err := at.client()
		if err != nil {
			return err
		}
		return do(c.Context(), cl, r, r.Disks[i])
	}
	return c
}

// stallReader stops the nbdkit that reads a disk, and lets it go on after length or when ctx ends.
func stallReader(ctx context.Context, s Streams, d report.Disk, length time.Duration, id job.ID) error {
	if length <= 0 {
		return Usage("--for must be more than 0")
	}
	if err := SignalReader(d, syscall.SIGSTOP); err != nil {
		return err
	}
	s.Say("nbdkit %d, which reads %s, hangs for %v now; see what follows: vmferry watch %s", d.SourcePID,
		d.DiskID, length, id)
	t := time.NewTimer(length)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	if err := SignalReader(d, syscall.SIGCONT); err != nil {
		s.Say("nbdkit %d has ended: the daemon has given it up", d.SourcePID)
		return nil
	}
	s.Say("nbdkit %d goes on", d.SourcePID)
	return nil
}

// SignalReader sends a signal to the nbdkit that reads a disk. It refuses to signal any other program. The kinds of its
// errors are Conflict (nothing reads the disk here) and Permission.
func SignalReader(d report.Disk, sig syscall.Signal) error {
	const op = "signal the reader"
	if d.SourcePID <= 1 {
		return job.Errorf(op, job.Conflict, "Try again while the disk is copied", "nothing reads %s now", d.DiskID)
	}
	name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(d.SourcePID), "comm"))
	if err != nil || !strings.HasPrefix(string(name), "nbdkit") {
		return job.Errorf(op, job.Conflict, "Run this on the daemon's machine, while the disk is copied",
			"process %d is not an nbdkit of this machine", d.SourcePID)
	}
	if err := syscall.Kill(d.SourcePID, sig); err != nil {
		return job.SystemError(op, "Run this as the daemon's user", fmt.Errorf("process %d: %w", d.SourcePID, err))
	}
	return nil
}
