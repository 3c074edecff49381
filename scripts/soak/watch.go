package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// forgotten is the progress, in percent, that a daemon may have shown and not know of after SIGKILL.
const forgotten = 2.0

// watcher reads a job's reports and checks them: no number may fall, and 100 % is for completed jobs only.
type watcher struct {
	*soak

	id    job.ID
	round int

	mu   sync.Mutex
	last report.Report
	done bool
	err  error
}

// watch reads reports until the round or ctx ends, and then closes over.
func (w *watcher) watch(ctx context.Context, over chan<- struct{}) {
	defer close(over)
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			w.finish(fmt.Errorf("round %d of %s did not end: it is %s", w.round, w.id, w.seen().Operation))
			return
		}
		r, err := w.stack.client.Job(ctx, w.id)
		if err != nil {
			continue // the daemon may have been killed
		}
		w.look(r)
		switch {
		case r.Status == job.StatusFailed || r.Status == job.StatusCancelled:
			w.finish(fmt.Errorf("job %s is %s: %+v", w.id, r.Status, r.Error))
			return
		case r.Round >= w.round && (r.Status == job.WaitingCutover || r.Status == job.StatusCompleted):
			w.finish(nil)
			return
		}
	}
}

// look checks a report against the one before.
func (w *watcher) look(r report.Report) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.last
	w.last = r
	if was.JobID == "" {
		return
	}
	if r.Version().Less(was.Version()) {
		w.results.problem("the version went back from %s to %s", was.Version(), r.Version())
	}
	// A daemon that was killed knows only the progress that it had saved: once a percent, or every two seconds.
	points, bytes := 0.0, int64(0)
	if r.Epoch != was.Epoch && was.BytesToTransfer != nil {
		points, bytes = forgotten, int64(forgotten/100*float64(*was.BytesToTransfer))
	}
	if r.OverallPercent < was.OverallPercent-points || r.Round == was.Round &&
		(r.BytesTransferred < was.BytesTransferred-bytes || r.BytesSkipped < was.BytesSkipped-bytes) {
		w.results.problem("numbers went back: %.2f%% %d %d, then %.2f%% %d %d",
			was.OverallPercent, was.BytesTransferred, was.BytesSkipped,
			r.OverallPercent, r.BytesTransferred, r.BytesSkipped)
	}
	if (r.OverallPercent == 100) != (r.Status == job.StatusCompleted) {
		w.results.problem("%.2f%% and %s", r.OverallPercent, r.Status)
	}
}

func (w *watcher) finish(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done, w.err = true, err
}

func (w *watcher) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done
}

func (w *watcher) seen() report.Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

func (w *watcher) verdict() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}
