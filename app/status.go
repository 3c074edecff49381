package app

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const statusEvery = 5 * time.Second

// notifyStatus sends the daemon's status to systemd, for systemctl status, until ctx ends.
func (d *Daemon) notifyStatus(ctx context.Context) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for last := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := d.status(ctx); now != last {
			notify(d.log, "STATUS="+now)
			last = now
		}
	}
}

// status is one line about the jobs that run and wait.
func (d *Daemon) status(ctx context.Context) string {
	reports, err := d.memory.Reports(ctx)
	if err != nil {
		return "running"
	}
	running, waiting, disks, stalled := 0, 0, 0, 0
	var speed *float64
	for _, r := range reports {
		switch r.Status {
		case job.Running:
			running++
		case job.Pending, job.Paused, job.WaitingCutover:
			waiting++
		case job.StatusCompleted, job.StatusFailed, job.StatusCancelled, job.Unreachable, job.Lost:
			continue
		}
		report.AddSpeed(&speed, r.BytesPerSecond)
		if slices.Contains(r.Health, report.Stalled) {
			stalled++
		}
		for _, k := range r.Disks {
			if k.Status == job.DiskRunning {
				disks++
			}
		}
	}
	text := fmt.Sprintf("%d jobs run, %d wait; %d disks are copied, %s/s", running, waiting, disks,
		job.FormatSize(int64(report.SpeedOr0(speed))))
	if stalled > 0 {
		text += fmt.Sprintf("; %d jobs are stalled", stalled)
	}
	return text
}
