package cli

import (
	"context"
	"slices"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	repaint = 250 * time.Millisecond // between ticks of a view
	// The daemon is asked for a sign of life at this interval, and must give it within this time. Both together are
	// less than the 3 s within which a view tells that the daemon is lost or back.
	pulseEvery  = 750 * time.Millisecond
	pulseWithin = 1750 * time.Millisecond
	// A job without a new report for so long is asked for: a stream does not tell that a job was deleted.
	quietAfter = 2 * time.Second
)

// Follow shows a job until done returns true or ctx ends. It returns the last report. A lost connection is no error:
// the view is told when the daemon does not answer any more, and when it answers again. A job that is deleted
// meanwhile is an error of kind NotFound.
func Follow(ctx context.Context, c *rest.Client, id job.ID, v View,
	done func(report.Report) bool,
) (report.Report, error) {
	all, err := FollowAll(ctx, c, []job.ID{id}, v, done)
	if len(all) == 0 {
		return report.Report{}, err
	}
	return all[0], err
}

// FollowAll shows jobs as Follow does, until done has returned true for each. It returns the last report of each job of
// ids, in their order. Before all first reports are there, it returns those that are. The others are followed to their
// end, too, if one was deleted.
func FollowAll(ctx context.Context, c *rest.Client, ids []job.ID, v View,
	done func(report.Report) bool,
) ([]report.Report, error) {
	f := following{
		view: v, done: done, clock: c.Time, heard: map[job.ID]time.Time{}, deleted: map[job.ID]error{},
		ask: make(chan []job.ID), gone: make(chan goneJob),
	}
	for _, id := range ids {
		r, err := c.Job(ctx, id)
		if err != nil {
			return f.last, err
		}
		f.last = append(f.last, r)
		f.heard[id] = time.Now()
	}
	reports, failed, pulses := make(chan report.Report), make(chan error, 1), make(chan error)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		failed <- watch(ctx, c, ids, func(r report.Report) error {
			select {
			case reports <- r:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	go pulse(ctx, c, pulses)
	go look(ctx, c, f.ask, f.gone)
	return f.last, f.show(reports, failed, pulses)
}

// watch is c.Watch for jobs that the daemon has shown before: a daemon that does not answer is waited for from the
// beginning.
func watch(ctx context.Context, c *rest.Client, ids []job.ID, each func(report.Report) error) error {
	for {
		err := c.Watch(ctx, "", each, ids...)
		if ctx.Err() != nil || !job.KindOf(err).Retryable() {
			return err
		}
		t := time.NewTimer(pulseEvery)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// pulse asks the daemon for signs of life until ctx ends, and sends what came: nil or an error.
func pulse(ctx context.Context, c *rest.Client, to chan<- error) {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		within, cancel := context.WithTimeout(ctx, pulseWithin)
		err := c.Alive(within)
		cancel()
		select {
		case to <- err:
		case <-ctx.Done():
			return
		}
	}
}

// goneJob is a job that the daemon does not know any more.
type goneJob struct {
	id  job.ID
	err error
}

// look asks for jobs until ctx ends, and sends those that the daemon does not know.
func look(ctx context.Context, c *rest.Client, ask <-chan []job.ID, gone chan<- goneJob) {
	for {
		var ids []job.ID
		select {
		case ids = <-ask:
		case <-ctx.Done():
			return
		}
		for _, id := range ids {
			within, cancel := context.WithTimeout(ctx, pulseWithin)
			_, err := c.Job(within, id)
			cancel()
			if job.KindOf(err) != job.NotFound {
				continue
			}
			select {
			case gone <- goneJob{id, err}:
			case <-ctx.Done():
				return
			}
		}
	}
}

// following is the state of one call of FollowAll.
type following struct {
	view    View
	done    func(report.Report) bool
	last    []report.Report
	lost    bool
	clock   func() (time.Time, bool) // of the daemon
	heard   map[job.ID]time.Time     // when a job's newest report came, or when it was asked for since
	deleted map[job.ID]error
	ask     chan []job.ID
	gone    chan goneJob
}

// show hands reports to the view, each version once and in order, until all jobs are done.
func (f *following) show(reports <-chan report.Report, failed, pulses <-chan error) error {
	for _, r := range f.last {
		if err := f.view.Show(r); err != nil {
			return err
		}
	}
	tick := time.NewTicker(repaint)
	defer tick.Stop()
	for len(f.waited(time.Time{})) > 0 {
		select {
		case now := <-tick.C:
			f.view.Tick(now, f.age())
		case err := <-failed:
			return err
		case err := <-pulses:
			f.pulsed(err, time.Now())
		case g := <-f.gone:
			f.deleted[g.id] = g.err
		case r := <-reports:
			if err := f.take(r); err != nil {
				return err
			}
		}
	}
	var err error
	for _, r := range f.last {
		if gone := f.deleted[r.JobID]; gone != nil && !f.done(r) {
			err = worst(err, gone)
		}
	}
	return err
}

// waited are the jobs that are waited for; with a time only those of which nothing has come since.
func (f *following) waited(since time.Time) (ids []job.ID) {
	for _, r := range f.last {
		if f.deleted[r.JobID] == nil && !f.done(r) && (since.IsZero() || f.heard[r.JobID].Before(since)) {
			ids = append(ids, r.JobID)
		}
	}
	return ids
}

// age is how old the oldest numbers of a job are that has new ones now.
func (f *following) age() (oldest time.Duration) {
	daemon, ok := f.clock()
	if !ok {
		return 0
	}
	for _, r := range f.last {
		oldest = max(oldest, ageOf(r, daemon))
	}
	return oldest
}

func (f *following) pulsed(err error, now time.Time) {
	switch {
	case err != nil && !f.lost:
		f.lost = true
		f.view.Lost(now, err)
	case err == nil && f.lost:
		f.lost = false
		f.view.Back(now)
	}
	quiet := f.waited(now.Add(-quietAfter))
	if err != nil || len(quiet) == 0 {
		return
	}
	select {
	case f.ask <- quiet:
		for _, id := range quiet {
			f.heard[id] = now
		}
	default: // the questions before are not answered yet
	}
}

func (f *following) take(r report.Report) error {
	i := slices.IndexFunc(f.last, func(x report.Report) bool { return x.JobID == r.JobID })
	if i < 0 || !f.last[i].Version().Less(r.Version()) {
		return nil
	}
	f.last[i], f.heard[r.JobID] = r, time.Now()
	delete(f.deleted, r.JobID) // another job may get the id
	return f.view.Show(r)
}

// Ended says whether a job has ended, or is lost: nothing more happens by itself.
func Ended(r report.Report) bool { return r.Status.Terminal() || r.Status == job.Lost }
