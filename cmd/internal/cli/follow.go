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
		view: v, done: done, clock: c.Time, deleted: map[job.ID]error{},
	}
	for _, id := range ids {
		r, err := c.Job(ctx, id)
		if err != nil {
			return f.last, err
		}
		f.last = append(f.last, r)
	}
	changes, failed, pulses := make(chan report.Change), make(chan error, 1), make(chan error)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		failed <- watch(ctx, c, ids, func(ch report.Change) error {
			select {
			case changes <- ch:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		})
	}()
	go pulse(ctx, c, pulses)
	return f.last, f.show(changes, failed, pulses)
}

// watch is c.WatchChanges for jobs that the daemon has shown before: a daemon that does not answer is waited for from
// the beginning.
func watch(ctx context.Context, c *rest.Client, ids []job.ID, each func(report.Change) error) error {
	for {
		err := c.WatchChanges(ctx, "", each, ids...)
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

// following is the state of one call of FollowAll.
type following struct {
	view    View
	done    func(report.Report) bool
	last    []report.Report
	lost    bool
	clock   func() (time.Time, bool) // of the daemon
	deleted map[job.ID]error
}

// show hands reports to the view, each version once and in order, until all jobs are done.
func (f *following) show(changes <-chan report.Change, failed, pulses <-chan error) error {
	for _, r := range f.last {
		if err := f.view.Show(r); err != nil {
			return err
		}
	}
	tick := time.NewTicker(repaint)
	defer tick.Stop()
	for f.waits() {
		select {
		case now := <-tick.C:
			f.view.Tick(now, f.age())
		case err := <-failed:
			return err
		case err := <-pulses:
			f.pulsed(err, time.Now())
		case c := <-changes:
			if err := f.take(c); err != nil {
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

// waits says whether there is a job to wait for.
func (f *following) waits() bool {
	return slices.ContainsFunc(f.last, func(r report.Report) bool { return f.deleted[r.JobID] == nil && !f.done(r) })
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
}

func (f *following) take(c report.Change) error {
	id := c.JobID()
	i := slices.IndexFunc(f.last, func(x report.Report) bool { return x.JobID == id })
	switch {
	case i < 0:
		return nil
	case c.Deleted != nil: // what Watch tells of is newer than all that it told before
		f.deleted[id] = job.Errorf("watch", job.NotFound, "vmferry get jobs lists those that there are",
			"job %s was deleted", id)
		return nil
	case !f.last[i].Version().Less(c.Version()):
		return nil
	}
	f.last[i] = *c.Report
	delete(f.deleted, id) // another job may get the id
	return f.view.Show(*c.Report)
}

// Ended says whether a job has ended, or is lost: nothing more happens by itself.
func Ended(r report.Report) bool { return r.Status.Terminal() || r.Status == job.Lost }
