package browser

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// Load are jobs of other copy tools: Listed of them in the list, the first Running of which run.
type Load struct {
	Client          *rest.Client
	Running, Listed int
	Every           time.Duration // between two updates of a job that runs
}

const (
	loadTotal   = 1 << 40 // bytes of each job
	loadStep    = 64 << 20
	loadSenders = 8
)

// JobID is the id of one of the jobs.
func (l *Load) JobID(i int) job.ID {
	return job.ID(fmt.Sprintf("job-20261130-100000.%03d-%06x", i%1000, i))
}

// Post sends the first update of each job.
func (l *Load) Post(ctx context.Context) error {
	return l.each(ctx, l.Listed, func(i int) error { return l.update(ctx, i, 1) })
}

func (l *Load) update(ctx context.Context, i int, n int64) error {
	done, total, rate := min(n*loadStep, loadTotal), int64(loadTotal), float64(loadStep)*4
	percent := 100 * float64(done) / float64(total)
	u := rest.ProgressUpdate{
		Stage: "Transfer", Status: "in_progress", BytesTransferred: &done, TotalBytes: &total, ThroughputBPS: &rate,
		Percent: &percent, DiskID: "disk-2000", SyncType: "full",
	}
	if i >= l.Running {
		switch i % 10 {
		case 0:
			u.Status, u.ErrorMessage = "failed", "the source answered with an error"
		default:
			u.Status, done, percent = "completed", total, 100
		}
		*u.ThroughputBPS, u.DiskID = 0, "" // of the whole job
	}
	return l.Client.Progress(ctx, l.JobID(i), u)
}

// each calls f for 0 to n-1, several at a time.
func (l *Load) each(ctx context.Context, n int, f func(int) error) error {
	var next atomic.Int64
	var wait sync.WaitGroup
	var once sync.Once
	var first error
	for range loadSenders {
		wait.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := f(i); err != nil {
					once.Do(func() { first = err })
					return
				}
			}
		})
	}
	wait.Wait()
	return first
}

// Run updates the jobs that run until ctx ends: all of them each Every, spread over that time. It returns how many
// updates it has sent.
func (l *Load) Run(ctx context.Context) (sent int64, err error) {
	const slices = 20 // of Every
	tick := time.NewTicker(l.Every / slices)
	defer tick.Stop()
	for n := int64(2); ; n++ {
		for slice := range slices {
			select {
			case <-ctx.Done():
				return sent, nil
			case <-tick.C:
			}
			from, to := slice*l.Running/slices, (slice+1)*l.Running/slices
			err := l.each(ctx, to-from, func(i int) error { return l.update(ctx, from+i, n) })
			if ctx.Err() != nil {
				return sent, nil
			}
			if err != nil {
				return sent, err
			}
			sent += int64(to - from)
		}
	}
}
