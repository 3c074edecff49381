package http

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// restartKinds are the kinds of failures by which restarts are counted.
func restartKinds() []job.Kind {
	return []job.Kind{
		job.Internal, job.Invalid, job.NotFound, job.Conflict, job.Auth, job.Permission, job.Unavailable, job.Timeout,
		job.IO, job.NoSpace, job.Corrupt, job.Unsupported, job.CBTInvalid, job.Cancelled, job.Missing,
		job.Fenced,
	}
}

// restarts counts the restarts of disks by the kind of the failure, from the reports. It begins at 0 with the daemon.
// Its methods may be called from many goroutines.
type restarts struct {
	mu   sync.Mutex
	seen map[job.ID]map[job.DiskID]int // restarts that were counted, of jobs that have not ended
	by   map[job.Kind]int
}

// restartPause is the time between two looks for new reports.
const restartPause = 250 * time.Millisecond

// run counts until ctx ends.
func (c *restarts) run(ctx context.Context, reports Reports) {
	first, _, _, sub := reports.Subscribe(report.Version{})
	defer sub.Close()
	c.follow(first, true)
	wait := time.NewTimer(restartPause)
	defer wait.Stop()
	for {
		rs, err := sub.Next(ctx)
		if err != nil {
			return
		}
		c.follow(rs, false)
		wait.Reset(restartPause)
		select {
		case <-wait.C:
		case <-ctx.Done():
		}
	}
}

// follow counts what came since the last report of each job. first says that the reports are those of jobs that were
// there before: their restarts are not counted.
func (c *restarts) follow(reports []*report.Report, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range reports {
		c.job(r, first)
	}
}

func (c *restarts) job(r *report.Report, first bool) {
	if r.Origin == report.External {
		return
	}
	seen, ended := c.seen[r.JobID], r.Status.Terminal()
	if seen == nil {
		if ended {
			return
		}
		seen = map[job.DiskID]int{}
		c.seen[r.JobID] = seen
	}
	for _, d := range r.Disks {
		if more := d.Restarts - seen[d.DiskID]; more > 0 && !first && d.LastCause != nil {
			c.by[d.LastCause.Code] += more
		}
		seen[d.DiskID] = d.Restarts // fewer after a retry
	}
	if ended {
		delete(c.seen, r.JobID)
	}
}

func (c *restarts) counts() map[job.Kind]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.by)
}
