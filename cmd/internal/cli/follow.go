package cli

import (
	"context"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const repaint = 250 * time.Millisecond // between ticks of a view

// Follow shows a job until done returns true or ctx ends. It returns the last report. A lost connection is no error.
func Follow(ctx context.Context, c *rest.Client, id job.ID, v View,
	done func(report.Report) bool,
) (report.Report, error) {
	last, err := c.Job(ctx, id)
	if err != nil {
		return last, err
	}
	reports, failed := make(chan report.Report), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		failed <- c.Watch(ctx, "", func(r report.Report) error {
			select {
			case reports <- r:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}, id)
	}()
	last, err = showAll(last, reports, failed, v, c.Time, done)
	cancel()
	return last, err
}

// showAll hands reports to the view, each version once and in order. clock is the daemon's.
func showAll(first report.Report, reports <-chan report.Report, failed <-chan error, v View,
	clock func() (time.Time, bool), done func(report.Report) bool,
) (report.Report, error) {
	last := first
	if err := v.Show(last); err != nil || done(last) {
		return last, err
	}
	tick := time.NewTicker(repaint)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			age := time.Duration(0)
			if daemon, ok := clock(); ok {
				age = ageOf(last, daemon)
			}
			v.Tick(now, age)
		case err := <-failed:
			return last, err
		case r := <-reports:
			if !last.Version().Less(r.Version()) {
				continue
			}
			last = r
			if err := v.Show(r); err != nil || done(r) {
				return last, err
			}
		}
	}
}

// Ended says whether a job has ended, or is lost: nothing more happens by itself.
func Ended(r report.Report) bool { return r.Status.Terminal() || r.Status == job.Lost }
