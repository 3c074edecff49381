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

// tellStatus tells systemd in a line what goes on, for systemctl status.
func (d *Daemon) tellStatus(ctx context.Context) {
	tick := time.NewTicker(statusEvery)
	defer tick.Stop()
	for last := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := d.status(ctx); now != last {
			tell(d.log, "STATUS="+now)
			last = now
		}
	}
}

// status is what goes on, in a line.
func (d *Daemon) status(ctx context.Context) string {
	reports, err := d.memory.Reports(ctx)
	if err != nil {
		return "runs"
	}
	running, waiting, disks, speed, stalled := 0, 0, 0, 0.0, 0
	for _, r := range reports {
		switch r.Status {
		case job.Running:
			running++
		case job.Pending, job.Paused, job.WaitingCutover:
			waiting++
		case job.StatusCompleted, job.StatusFailed, job.StatusCancelled, job.Unreachable, job.Lost:
			continue
		}
		speed += r.BytesPerSecond
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
		job.FormatSize(int64(speed)))
	if stalled > 0 {
		text += fmt.Sprintf("; %d jobs are stalled", stalled)
	}
	return text
}
