package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

const copyHelp = `Copy one disk, without a daemon. SOURCE and TARGET are NBD URIs (nbd://, nbds://, nbd+unix://, nbds+unix://,
nbd+vsock://), regular files or block devices; TARGET can also be null:. A target file that does not exist is made.

With --changed only the ranges in a file like [{"offset":0,"length":65536}] are copied, zeros included. With
--checkpoint a copy that was interrupted goes on where it was. SIGTERM and Ctrl-C flush, record and end within 2 s.

Exit code 3 means that not everything is on the target.`

const copyExample = `  vmferry copy nbd+unix:///?socket=/run/web.sock /var/lib/images/web.raw --checkpoint /var/tmp/web.checkpoint
  vmferry copy nbd://esxi-proxy/web nbds://storage/web --changed changes.json --verify sample -o json`

const (
	leastBurst   = 1 << 20   // bytes that may pass at once under a bandwidth limit
	burstsSecond = 8         // otherwise an eighth of a second's worth
	digestXXH3   = "xxh3"
	digestNone   = "none"
	engineAuto   = "auto"
)

// copyOptions is what the command line says.
type copyOptions struct {
	changed, verify, bandwidth, requestSize string
	digest, engine, receipt                 string
	reconnect                               time.Duration
	task                                    nbd.Task
	out                                     *output
	progress                                *progress
	post                                    posting
	verbose                                 bool
}

func newCopyCommand(s streams) *cobra.Command {
	o := &copyOptions{}
	c := &cobra.Command{Use: "copy SOURCE TARGET", Short: "Copy one disk, without a daemon", Long: copyHelp, Example: copyExample, Args: cobra.ExactArgs(2)}
	f := c.Flags()
	f.StringVar(&o.changed, "changed", "", "copy only the ranges in this JSON file")
	f.StringVar(&o.task.Checkpoint, "checkpoint", "", "record progress in this file, and go on from it")
	f.StringVar(&o.verify, "verify", string(job.VerifyNone), "read the target back: none, sample, full")
	f.StringVar(&o.bandwidth, "bandwidth", "", "most bytes a second, as in 200MiB")
	f.IntVar(&o.task.Connections, "connections", 0, "connections to each side (default: as many as pay off)")
	f.IntVar(&o.task.Requests, "requests", 0, "requests in flight on each connection (default 16)")
	f.StringVar(&o.requestSize, "request-size", "", "bytes of one request (default 512KiB)")
	f.StringVar(&o.digest, "digest", digestXXH3, "hash what is read, so that --verify full needs not read the source again: xxh3, none")
	f.StringVar(&o.receipt, "receipt", "", "write a receipt with the BLAKE3 digest of the whole disk, as b3sum tells it, to this file")
	f.DurationVar(&o.task.Deadline, "deadline", time.Minute, "longest time without a sign of life from a server")
	f.DurationVar(&o.reconnect, "reconnect", 0, "how long to try to get a lost connection back (default as --deadline; negative for not at all)")
	f.StringVar(&o.engine, "engine", engineAuto, "who moves the data of NBD connections: auto, libnbd")
	f.BoolVar(&o.task.TargetIsZero, "target-is-zero", false, "the target is all zeros: write only data")
	f.StringVar(&o.post.job, "job-id", s.getenv("MIGRATEKIT_PROGRESS_JOB_ID"), "report progress as this job (default $MIGRATEKIT_PROGRESS_JOB_ID)")
	f.StringVar(&o.post.disk, "disk-id", "", "report progress of this disk of the job")
	f.StringVar(&o.post.url, "progress-url", orDefault(s.getenv("VMFERRY_PROGRESS_URL"), "http://localhost:8081"), "service that takes the progress (default $VMFERRY_PROGRESS_URL)")
	f.BoolVarP(&o.verbose, "verbose", "v", false, "say more about what is done")
	o.out = outputFlag(c, asTable, asJSON, asYAML)
	o.progress = progressFlag(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		o.task.Source, o.task.Target, o.task.Create = args[0], args[1], true
		return runCopy(c.Context(), s, o)
	}
	return c
}

func orDefault(v, standard string) string {
	if v == "" {
		return standard
	}
	return v
}

func runCopy(ctx context.Context, s streams, o *copyOptions) error {
	if err := o.complete(); err != nil {
		return &exitError{exitUsage, err}
	}
	plain, err := o.progress.view(s)
	if err != nil {
		return err
	}
	shown := &sharedView{view: plain, err: s.err}
	o.task.Log = shown.logger(o.verbose)
	began := time.Now()
	watcher := newCopyWatch(o, shown, began)
	stop := watcher.start(ctx)
	result, verified, err := copyAndVerify(ctx, o, watcher.meter)
	stop(err)
	r := copyResult(result, verified, err, time.Since(began))
	if err == nil && o.receipt != "" {
		if err = writeReceipt(o, r, began); err != nil {
			r = copyResult(result, verified, err, time.Since(began))
		}
	}
	if werr := r.write(s, o.out); werr != nil {
		return &exitError{exitFailed, werr}
	}
	if err != nil {
		return &exitError{exitJobFailed, err}
	}
	return nil
}

// complete turns words into a task. Its errors are about how the command was called.
func (o *copyOptions) complete() error {
	switch job.VerifyMode(o.verify) {
	case job.VerifyNone, job.VerifySample, job.VerifyFull:
	default:
		return fmt.Errorf("--verify is none, sample or full, not %q", o.verify)
	}
	if err := o.completeEngine(); err != nil {
		return err
	}
	if o.requestSize != "" {
		n, err := job.ParseSize(o.requestSize)
		if err != nil {
			return err
		}
		o.task.RequestSize = int(n)
	}
	if o.bandwidth != "" {
		n, err := job.ParseSize(o.bandwidth)
		if err != nil {
			return err
		}
		if n <= 0 {
			return errors.New("--bandwidth must be more than 0")
		}
		o.task.Limiter = rate.NewLimiter(rate.Limit(n), int(max(leastBurst, n/burstsSecond)))
	}
	if err := o.post.check(); err != nil {
		return err
	}
	return o.readChanged()
}

// completeEngine reads what tells the engine how to work.
func (o *copyOptions) completeEngine() error {
	switch o.digest {
	case digestXXH3, digestNone:
	default:
		return fmt.Errorf("--digest is xxh3 or none, not %q", o.digest)
	}
	switch o.engine {
	case engineAuto:
	case string(nbd.EngineLibnbd):
		o.task.Engine = nbd.EngineLibnbd
	default:
		return fmt.Errorf("--engine is auto or libnbd, not %q", o.engine)
	}
	if o.task.Deadline <= 0 {
		return errors.New("--deadline must be more than 0")
	}
	if o.receipt != "" && o.changed != "" {
		return errors.New("--receipt is for a copy of the whole disk, not with --changed")
	}
	o.task.NoDigest, o.task.Receipt, o.task.Reconnect = o.digest == digestNone, o.receipt != "", o.reconnect
	return nil
}

// readChanged makes the copy an incremental one if there is a file of changed ranges.
func (o *copyOptions) readChanged() error {
	if o.changed == "" {
		return nil
	}
	f, err := os.Open(o.changed)
	if err != nil {
		return fmt.Errorf("read changed ranges: %w", err)
	}
	ranges, err := job.ReadExtents(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("read changed ranges in %s: %w", o.changed, err)
	}
	o.task.Only, o.task.Incremental = ranges, true
	return nil
}

// copyAndVerify does the work. What was copied is verified, nothing else.
func copyAndVerify(ctx context.Context, o *copyOptions, m *nbd.Meter) (nbd.Result, nbd.VerifyResult, error) {
	result, err := nbd.Copy(ctx, o.task, m)
	if err != nil || job.VerifyMode(o.verify) == job.VerifyNone {
		return result, nbd.VerifyResult{}, err
	}
	verified, err := nbd.Verify(ctx, nbd.VerifyTask{
		Source: o.task.Source, Target: o.task.Target, Extents: o.task.Only, Mode: job.VerifyMode(o.verify), Seed: uint64(time.Now().UnixNano()),
		Connections: o.task.Connections, Requests: o.task.Requests, RequestSize: o.task.RequestSize, Limiter: o.task.Limiter, Log: o.task.Log,
		Deadline: o.task.Deadline, Engine: o.task.Engine, Digests: result.Digests,
	}, m)
	return result, verified, err
}

// copyReport is the object that a copy ends with.
type copyReport struct {
	Status           string      `json:"status"` // completed, failed or cancelled
	BytesCapacity    int64       `json:"bytes_capacity"`
	BytesToTransfer  int64       `json:"bytes_to_transfer"`
	BytesTransferred int64       `json:"bytes_transferred"`
	BytesSkipped     int64       `json:"bytes_skipped"`
	BytesResent      int64       `json:"bytes_resent"`
	BytesResumed     int64       `json:"bytes_resumed"`
	DurationSeconds  float64     `json:"duration_seconds"`
	BytesPerSecond   float64     `json:"bytes_per_second"` // of this run, without what was resumed
	Verified         bool        `json:"verified"`
	BytesVerified    int64       `json:"bytes_verified"`
	Digest           *string     `json:"digest"`
	BLAKE3           *string     `json:"blake3"` // of the whole disk, if a receipt was asked for
	BadRanges        job.Extents `json:"bad_ranges"`
	Reconnects       int         `json:"reconnects"`
	Load             job.Load    `json:"load"`
	Error            *copyError  `json:"error"`
}

type copyError struct {
	Code    job.Kind `json:"code"`
	Message string   `json:"message"`
	Next    string   `json:"next,omitempty"`
}

func copyResult(r nbd.Result, v nbd.VerifyResult, err error, took time.Duration) copyReport {
	out := copyReport{
		Status: copyStatus(err), BytesCapacity: r.Capacity, BytesToTransfer: r.ToTransfer, BytesTransferred: r.Transferred,
		BytesSkipped: r.Skipped, BytesResent: r.Resent, BytesResumed: r.Resumed, DurationSeconds: took.Seconds(),
		Verified: err == nil && v.Verified > 0, BytesVerified: v.Verified,
	}
	if s := r.Duration.Seconds(); s > 0 {
		out.BytesPerSecond = float64(r.Transferred-r.ResumedTransferred) / s
		share := func(d time.Duration) float64 { return float64(int(1000*min(1, d.Seconds()/s))) / 1000 }
		out.Load = job.Load{Source: share(r.SourceWait), Target: share(r.TargetWait), Throttle: share(r.ThrottleWait)}
	}
	out.BadRanges, out.Reconnects = append(job.Extents{}, r.Bad...), r.Reconnects
	if digest := orDefault(r.Digests.String(), v.Digest); digest != "" {
		out.Digest = &digest
	}
	if r.BLAKE3 != "" {
		out.BLAKE3 = &r.BLAKE3
	}
	if err != nil {
		out.Error = &copyError{job.KindOf(err), err.Error(), job.NextOf(err)}
	}
	return out
}

func copyStatus(err error) string {
	switch {
	case err == nil:
		return string(job.StatusCompleted)
	case job.KindOf(err) == job.Cancelled:
		return string(job.StatusCancelled)
	default:
		return string(job.StatusFailed)
	}
}

func (r copyReport) write(s streams, o *output) error {
	if o.structured() {
		return o.data(s.out, r)
	}
	if r.Error != nil {
		return nil // told with the exit
	}
	verified := "not verified"
	if r.Verified {
		verified = fmt.Sprintf("%s verified", sizeText(r.BytesVerified))
	}
	_, err := fmt.Fprintf(s.out, "%s: %s copied, %s zeros skipped, %s resumed, in %.1fs (%s/s); %s\n", r.Status,
		sizeText(r.BytesTransferred), sizeText(r.BytesSkipped), sizeText(r.BytesResumed), r.DurationSeconds, sizeText(int64(r.BytesPerSecond)), verified)
	return err
}
