package cli

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	copyTick      = 250 * time.Millisecond // between looks at the meters
	copySpeedOver = 5.0                    // seconds, about, over which the speed is averaged
)

// sharedView lets several goroutines use one view: one shows the copy, others log.
type sharedView struct {
	mu   sync.Mutex
	view View
	err  io.Writer
}

func (v *sharedView) Show(r report.Report) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.view.Show(r)
}

func (v *sharedView) Close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.view.Close()
}

// Write writes a line of the log, above the bars if there are any.
func (v *sharedView) Write(line []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch v.view.(type) {
	case *bars, *lines:
		v.view.Say(strings.TrimRight(string(line), "\n"))
		return len(line), nil
	default:
		return v.err.Write(line)
	}
}

func (v *sharedView) logger(verbose bool) *slog.Logger {
	level := slog.LevelWarn
	if verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(v, &slog.HandlerOptions{Level: level}))
}

// copyWatch reads the meters of all disks, shows them and reports them. It never delays the copy.
type copyWatch struct {
	disks []*diskWatch
	mode  job.Mode
	view  *sharedView
	post  *poster
	began time.Time
	peak  float64 // bytes per second, of all disks together
}

// diskWatch is the last reading of one disk.
type diskWatch struct {
	disk    *copyDisk
	last    job.Counters
	lastAt  time.Time
	speed   float64 // bytes per second
	posted  time.Time
	percent float64      // last posted
	over    *copyOutcome // nil until the disk has ended
}

func newCopyWatch(o *copyOptions, disks []*copyDisk, v *sharedView, log *slog.Logger, now time.Time) *copyWatch {
	w := &copyWatch{mode: job.Full, view: v, post: newPoster(o.post, log), began: now}
	if o.task.Incremental {
		w.mode = job.Incremental
	}
	for _, d := range disks {
		w.disks = append(w.disks, &diskWatch{disk: d, lastAt: now})
	}
	return w
}

// start begins to watch. Call stop when all disks have ended: it returns when that is shown and reported.
func (w *copyWatch) start(ctx context.Context) (stop func()) {
	ctx, cut := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan struct{})
	var both sync.WaitGroup
	both.Go(func() { w.watch(over) })
	both.Go(func() { w.post.run(ctx) })
	return func() {
		defer cut()
		patience := postTimeout
		for _, d := range w.disks {
			if copyStatus(d.disk.outcome().err) == string(job.StatusCancelled) {
				patience = postLast
			}
		}
		defer time.AfterFunc(patience, cut).Stop()
		close(over)
		both.Wait()
	}
}

func (w *copyWatch) watch(over <-chan struct{}) {
	defer close(w.post.wake)
	tick := time.NewTicker(copyTick)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			w.look(now)
			_ = w.view.Show(w.picture(false, now)) // a terminal that is gone must not end a copy
		case <-over:
			w.end(time.Now())
			return
		}
	}
}

// look reads all meters.
func (w *copyWatch) look(now time.Time) {
	speed := 0.0
	for _, d := range w.disks {
		if d.over == nil {
			d.look(now, w)
		}
		speed += d.speed
	}
	w.peak = max(w.peak, speed)
}

func (d *diskWatch) look(now time.Time, w *copyWatch) {
	over := d.disk.outcome() // before the counters: if it is set, they are final
	c := d.disk.meter.Counters()
	if dt := now.Sub(d.lastAt).Seconds(); dt > 0 && over == nil {
		v := float64(c.Transferred-c.ResumedTransferred-(d.last.Transferred-d.last.ResumedTransferred)) / dt
		d.speed += min(1, dt/min(copySpeedOver, now.Sub(w.began).Seconds())) * (v - d.speed)
	}
	d.last, d.lastAt, d.over = c, now, over
	p := copyPercent(c)
	switch {
	case over != nil:
		if !d.disk.alone {
			d.speed = 0
		}
		w.post.put(d.update(w.mode, copyStatus(over.err), over.err, p))
	case c.ToTransfer > 0 && (now.Sub(d.posted) >= postEvery || p >= d.percent+1):
		d.posted, d.percent = now, float64(int(p))
		w.post.put(d.update(w.mode, "in_progress", nil, p))
	}
}

// end shows and reports the end.
func (w *copyWatch) end(now time.Time) {
	w.look(now)
	_ = w.view.Show(w.picture(true, now))
	w.view.Close()
	if w.disks[0].disk.alone {
		return
	}
	err := failureOf(w.all()) // reports on disks do not end a job: one on the whole job does
	whole := diskWatch{disk: &copyDisk{}}
	for _, d := range w.disks {
		whole.last.Transferred += d.last.Transferred
		whole.last.Skipped += d.last.Skipped
		whole.last.ToTransfer += d.last.ToTransfer
	}
	w.post.put(whole.update(w.mode, copyStatus(err), err, copyPercent(whole.last)))
}

func (w *copyWatch) all() (disks []*copyDisk) {
	for _, d := range w.disks {
		disks = append(disks, d.disk)
	}
	return disks
}

// copyPercent is at most 99.99: 100 is for a copy that has ended.
func copyPercent(c job.Counters) float64 {
	if c.ToTransfer == 0 {
		return 0
	}
	return min(99.99, 100*float64(c.Done())/float64(c.ToTransfer))
}

func (d *diskWatch) update(mode job.Mode, status string, err error, percent float64) copyUpdate {
	u := copyUpdate{
		Stage: "Transfer", Status: status, BytesTransferred: d.last.Done(), TotalBytes: d.last.ToTransfer,
		ThroughputBPS: int64(max(0, d.speed)), Percent: float64(int(percent*100)) / 100,
		DiskID: d.disk.posted, SyncType: string(mode),
	}
	if err != nil {
		u.ErrorMessage = err.Error()
	}
	if status == string(job.StatusCompleted) {
		u.Percent = 100
	}
	return u
}
