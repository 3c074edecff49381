package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

const (
	copyTick      = 250 * time.Millisecond // between looks at the meter
	postEvery     = 2 * time.Second        // or every whole percent
	postTimeout   = 5 * time.Second
	postLast      = 400 * time.Millisecond // for the last word of a copy that was cancelled, which must end soon
	copySpeedOver = 5.0                    // seconds that the shown speed looks back, about
)

// posting is where progress is reported to: the service that the old copy tool reports to as well. It is off without a job.
type posting struct{ job, disk, url string }

func (p posting) check() error {
	if p.job == "" {
		return nil
	}
	if _, err := job.ParseID(p.job); err != nil {
		return err
	}
	u, err := url.Parse(p.url)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("--progress-url is an http or https URL, not %q", p.url)
	}
	return nil
}

// copyUpdate is the body of a report.
type copyUpdate struct {
	Stage            string  `json:"stage"`
	Status           string  `json:"status"`
	BytesTransferred int64   `json:"bytes_transferred"`
	TotalBytes       int64   `json:"total_bytes"`
	ThroughputBPS    int64   `json:"throughput_bps"`
	Percent          float64 `json:"percent"`
	DiskID           string  `json:"disk_id,omitempty"`
	SyncType         string  `json:"sync_type"`
	ErrorMessage     string  `json:"error_message"`
}

// sharedView lets several goroutines use one view: the one that shows the copy, and those that have something to log.
type sharedView struct {
	mu   sync.Mutex
	view view
	err  io.Writer
}

func (v *sharedView) show(r job.Report) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.view.show(r)
}

func (v *sharedView) close() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.view.close()
}

// Write takes a line of the log: between the bars if there are any.
func (v *sharedView) Write(line []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch v.view.(type) {
	case *bars, *lines:
		v.view.say(strings.TrimRight(string(line), "\n"))
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

// copyWatch looks at the meter of a copy, shows it and reports it. Neither can hold the copy up.
type copyWatch struct {
	meter *nbd.Meter
	opts  *copyOptions
	view  *sharedView
	began time.Time
	queue chan copyUpdate // at most one: the newest

	last    job.Counters
	lastAt  time.Time
	speed   float64 // bytes per second
	peak    float64
	posted  time.Time
	percent float64 // that was posted last
}

func newCopyWatch(o *copyOptions, v *sharedView, now time.Time) *copyWatch {
	return &copyWatch{meter: &nbd.Meter{}, opts: o, view: v, began: now, queue: make(chan copyUpdate, 1), lastAt: now}
}

// start begins to watch. The function that it returns tells the end, and waits until that is shown and reported.
func (w *copyWatch) start(ctx context.Context) (stop func(error)) {
	ctx, cut := context.WithCancel(context.WithoutCancel(ctx))
	over := make(chan error)
	var both sync.WaitGroup
	both.Go(func() { w.watch(over) })
	both.Go(func() { w.report(ctx) })
	return func(err error) {
		defer cut()
		patience := postTimeout
		if copyStatus(err) == string(job.StatusCancelled) {
			patience = postLast
		}
		defer time.AfterFunc(patience, cut).Stop()
		over <- err
		both.Wait()
	}
}

func (w *copyWatch) watch(over <-chan error) {
	defer close(w.queue)
	tick := time.NewTicker(copyTick)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			w.look(now)
		case err := <-over:
			w.end(err, time.Now())
			return
		}
	}
}

func (w *copyWatch) look(now time.Time) {
	c := w.meter.Counters()
	dt := now.Sub(w.lastAt).Seconds()
	if dt > 0 {
		v := float64(c.Transferred-c.ResumedTransferred-(w.last.Transferred-w.last.ResumedTransferred)) / dt
		w.speed += min(1, dt/min(copySpeedOver, now.Sub(w.began).Seconds())) * (v - w.speed)
		w.peak = max(w.peak, w.speed)
	}
	w.last, w.lastAt = c, now
	_ = w.view.show(w.picture(nil, false, now)) // a screen that is gone must not end a copy
	p := copyPercent(c)
	if c.ToTransfer > 0 && (now.Sub(w.posted) >= postEvery || p >= w.percent+1) {
		w.posted, w.percent = now, float64(int(p))
		w.post(w.update("in_progress", "", p))
	}
}

func (w *copyWatch) end(err error, now time.Time) {
	w.last = w.meter.Counters()
	_ = w.view.show(w.picture(err, true, now))
	w.view.close()
	p, message := copyPercent(w.last), ""
	if err == nil {
		p = 100
	} else {
		message = err.Error()
	}
	w.post(w.update(copyStatus(err), message, p))
}

// copyPercent is 100 only at the end, which is not known here.
func copyPercent(c job.Counters) float64 {
	if c.ToTransfer == 0 {
		return 0
	}
	return min(99.99, 100*float64(c.Done())/float64(c.ToTransfer))
}

func (w *copyWatch) update(status, message string, percent float64) copyUpdate {
	u := copyUpdate{
		Stage: "Transfer", Status: status, BytesTransferred: w.last.Done(), TotalBytes: w.last.ToTransfer, ThroughputBPS: int64(max(0, w.speed)),
		Percent: float64(int(percent*100)) / 100, DiskID: w.opts.post.disk, SyncType: string(w.mode()), ErrorMessage: message,
	}
	return u
}

func (w *copyWatch) mode() job.Mode {
	if w.opts.task.Incremental {
		return job.Incremental
	}
	return job.Full
}

// post replaces what has not been sent yet.
func (w *copyWatch) post(u copyUpdate) {
	select {
	case <-w.queue:
	default:
	}
	w.queue <- u // only this goroutine puts anything in, so there is room
}

// report sends what is queued, one after the other. That nobody hears it is told once, and is no failure.
func (w *copyWatch) report(ctx context.Context) {
	client := &http.Client{Timeout: postTimeout}
	defer client.CloseIdleConnections()
	told := false
	for u := range w.queue {
		if w.opts.post.job == "" {
			continue
		}
		err := w.opts.post.send(ctx, client, u)
		if err != nil && !told {
			told = true
			w.opts.task.Log.Warn("progress is not heard; the copy goes on", "url", w.opts.post.url, "err", err)
		}
		if err == nil {
			w.opts.task.Log.Debug("progress reported", slog.Float64("percent", u.Percent))
		}
	}
}

func (p posting) send(ctx context.Context, client *http.Client, u copyUpdate) (err error) {
	body, err := json.Marshal(u)
	if err != nil {
		return err
	}
	address := strings.TrimRight(p.url, "/") + "/api/v1/progress/" + url.PathEscape(p.job) + "/update"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, answer.Body.Close()) }()
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", answer.Status)
	}
	return nil
}

// picture is the copy as a job of one disk, for the views that show jobs.
func (w *copyWatch) picture(err error, over bool, now time.Time) job.Report {
	c, o := w.last, w.opts
	percent := copyPercent(c)
	r := job.Report{
		JobID: job.ID(orDefault(o.post.job, "copy")), ObservedAt: now, Status: job.Running, Phase: job.Transfer, Round: 1, Mode: w.mode(),
		Operation: "copies " + nbd.Redact(o.task.Source) + " to " + nbd.Redact(o.task.Target), Health: []job.Health{},
		VM: job.ReportVM{Name: "copy"}, StartedAt: &w.began, BytesTransferred: c.Transferred, BytesSkipped: c.Skipped,
		BytesPerSecond: w.speed, BytesPerSecondPeak: w.peak, Percent: &percent, OverallPercent: percent,
	}
	d := job.ReportDisk{
		DiskID: job.DiskID(orDefault(o.post.disk, "disk")), Target: nbd.Redact(o.task.Target), Mode: w.mode(), Status: job.DiskRunning, Attempt: 1,
		Percent: &percent, BytesTransferred: c.Transferred, BytesSkipped: c.Skipped, BytesDurable: c.Durable, BytesVerified: c.Verified, BytesPerSecond: w.speed,
	}
	if c.ToTransfer > 0 {
		d.BytesToTransfer = &c.ToTransfer
		r.BytesToTransfer = &c.ToTransfer
	}
	if c.ToVerify > 0 {
		r.Phase, d.Status, r.Operation = job.Verify, job.DiskVerifying, "reads the target back and compares"
	}
	if left := float64(c.ToTransfer - c.Done()); w.speed >= 1 && left > 0 && !over {
		eta := int64(left / w.speed)
		r.ETASeconds, d.ETASeconds = &eta, &eta
	}
	if over {
		ending(&r, &d, err, now)
	}
	r.Disks = []job.ReportDisk{d}
	return r
}

// ending is how the picture looks when it is over. The error itself is told with the exit.
func ending(r *job.Report, d *job.ReportDisk, err error, now time.Time) {
	r.EndedAt, r.ETASeconds, d.ETASeconds = &now, nil, nil
	switch {
	case err == nil:
		hundred := 100.0
		r.Status, r.Phase, d.Status, r.Percent, d.Percent, r.OverallPercent = job.StatusCompleted, job.Completed, job.DiskDone, &hundred, &hundred, hundred
		r.Operation = "every byte is on the target"
	case job.KindOf(err) == job.Cancelled:
		r.Status, r.Phase, d.Status, r.Operation = job.StatusCancelled, job.Stopped, job.DiskPaused, "cancelled"
	default:
		r.Status, r.Phase, d.Status, r.Operation = job.StatusFailed, job.Failed, job.DiskFailed, "failed"
	}
}
