package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vmferry/vmferry/cmd/internal/cli"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// The progress of a disk, in percent, at which its reader is killed.
const (
	killFrom  = 35.0
	killUntil = 95.0
)

// How long the first round takes at its limit: long enough to kill a reader in the middle, and with --keep to look.
const (
	holdFor     = 6 * time.Second
	holdForKeep = 40 * time.Second
)

// rehearse submits the job, kills a reader, writes as the guest, cuts over and compares.
func (d *demo) rehearse(ctx context.Context) (*demoResult, error) {
	r, err := d.submit(ctx)
	if err != nil {
		return nil, err
	}
	id := r.JobID
	victim := d.victim()
	k := &killer{demo: d, ctx: ctx, disk: victim.id}
	if r, err = d.follow(ctx, id, func(r report.Report) bool { k.see(r); return settled(r) }); err != nil {
		return nil, err
	}
	if r.Status != job.WaitingCutover {
		return nil, failedJob(r)
	}
	if k.err != nil {
		return nil, k.err
	}
	if err := d.stack.client.Limit(ctx, id, 0); err != nil {
		return nil, err
	}
	if err := d.guest(ctx); err != nil {
		return nil, err
	}
	d.words("%s", d.paint.Bold("Cut-over: the second round moves only what the guest has changed"))
	if err := d.stack.client.Command(ctx, id, job.CutoverNow); err != nil {
		return nil, err
	}
	if r, err = d.follow(ctx, id, cli.Ended); err != nil {
		return nil, err
	}
	if r.Status != job.StatusCompleted {
		return nil, failedJob(r)
	}
	return d.compare(ctx, r)
}

func failedJob(r report.Report) error {
	if err := cli.Outcome(r); err != nil {
		return err
	}
	return cli.Exit(cli.ExitJobFailed, job.Errorf("", job.Internal, "", "job %s stopped at %s", r.JobID, r.Status))
}

// victim is the disk whose reader is killed: the densest, which takes the longest.
func (d *demo) victim() demoDisk {
	return slices.MaxFunc(d.disks, func(a, b demoDisk) int { return int(100*a.fill) - int(100*b.fill) })
}

// submit submits the job, with a limit, and says where everything is.
func (d *demo) submit(ctx context.Context) (report.Report, error) {
	if d.hold == 0 {
		long := holdFor
		if d.keep {
			long = holdForKeep
		}
		var all float64
		for _, k := range d.disks {
			all += k.fill * float64(k.size)
		}
		d.hold = max(16<<20, int64(all/long.Seconds()))
	}
	spec := job.Spec{VM: demoVM, Mode: job.Auto, Options: job.Options{
		Verify: job.VerifySample, Quiesce: true, Cutover: job.CutoverManual, Bandwidth: d.hold,
	}}
	r, _, err := d.stack.client.Submit(ctx, spec, rest.SubmitOptions{})
	if err != nil {
		return r, err
	}
	d.words("  daemon      %s", d.stack.serving.URL)
	d.words("  page        %s/jobs/%s", d.stack.serving.URL, r.JobID)
	d.words("  vCenter     %s", d.stack.sim.URL)
	d.words("  Redis       %s", d.stack.redis.command.Socket)
	d.words("  state       %s", d.stack.serving.StateDir)
	d.words("  history     %s", d.stack.history.where(d.stack.serving.StateDir))
	d.words("  job         %s", r.JobID)
	d.words("  look        curl -s %s/api/v1/jobs/%s", d.stack.serving.URL, r.JobID)
	d.words("  its row     %s", d.stack.history.command(d.stack.serving.StateDir, r.JobID))
	d.words("")
	d.words("%s", d.paint.Bold("First round: everything, while the guest runs"))
	if d.keep {
		d.words("It is limited to %s/s, so that there is time to look, and to kill a reader.", job.FormatSize(d.hold))
	} else {
		d.words("It is limited to %s/s until a reader is killed.", job.FormatSize(d.hold))
	}
	return r, nil
}

// follow shows the job until done. If the daemon has died, the error says so.
func (d *demo) follow(ctx context.Context, id job.ID, done func(report.Report) bool) (report.Report, error) {
	r, err := cli.Follow(ctx, d.stack.client, id, lockedView{d.view, d}, done)
	if err != nil {
		select {
		case <-d.stack.daemon.Done():
			return r, d.stack.daemon.Failed()
		default:
		}
	}
	return r, err
}

// lockedView keeps words of another goroutine (redis-server died) out of the middle of a picture.
type lockedView struct {
	cli.View
	d *demo
}

func (v lockedView) Show(r report.Report) error {
	v.d.tell.Lock()
	defer v.d.tell.Unlock()
	return v.View.Show(r)
}

func (v lockedView) Tick(now time.Time, age time.Duration) {
	v.d.tell.Lock()
	defer v.d.tell.Unlock()
	v.View.Tick(now, age)
}

// killer kills the reader of one disk, once, in the middle of the first round, and then removes the job's limit.
type killer struct {
	*demo
	ctx  context.Context //nolint:containedctx // lives as long as one call of follow
	disk job.DiskID
	done bool
	err  error
}

// see looks at the next report.
func (k *killer) see(r report.Report) {
	i := slices.IndexFunc(r.Disks, func(d report.Disk) bool { return d.DiskID == k.disk })
	if k.done || k.err != nil || i < 0 || r.Phase != job.Transfer {
		return
	}
	d := r.Disks[i]
	if d.Status != job.DiskRunning || d.Percent == nil || *d.Percent < killFrom || d.SourcePID == 0 {
		return
	}
	k.done = true
	if *d.Percent > killUntil {
		k.words("The copy was too fast to kill its reader in the middle: the first report in time was at %s.",
			cli.PercentText(d.Percent))
		return
	}
	if k.err = cli.SignalReader(d, syscall.SIGKILL); k.err != nil {
		return
	}
	k.words("%s", k.paint.Yellow("Killed nbdkit "+itoa(d.SourcePID)+", which read "+string(d.DiskID)+", at "+
		cli.PercentText(d.Percent)+" with SIGKILL. The supervisor starts the disk again, from its checkpoint."))
	if k.keep {
		return
	}
	k.err = k.stack.client.Limit(k.ctx, r.JobID, 0)
}

// guest writes to files of every disk: data, and zeros where data was.
func (d *demo) guest(ctx context.Context) error {
	var sum, zeros int64
	for _, k := range d.disks {
		writes, err := k.guestWrites(ctx)
		if err != nil {
			return err
		}
		for _, w := range writes {
			if err := d.stack.write(ctx, w); err != nil {
				return err
			}
			sum += w.length
			if w.zero {
				zeros += w.length
			}
		}
	}
	d.words("The targets are up to date. Now the guest writes %s into its files on all %d disks, %s of it zeros.",
		job.FormatSize(sum), len(d.disks), job.FormatSize(zeros))
	return nil
}

// compare compares digests of images and targets, outside the copy engine, and counts what Redis and the vCenter hold.
func (d *demo) compare(ctx context.Context, r report.Report) (*demoResult, error) {
	d.words("Comparing images and targets by SHA-256, outside the engine")
	result := newDemoResult(r)
	sums, err := d.digests(ctx, r)
	if err != nil {
		return nil, err
	}
	for i, k := range d.disks {
		at := slices.IndexFunc(r.Disks, func(x report.Disk) bool { return x.DiskID == k.id })
		if at < 0 {
			return nil, job.Errorf("compare", job.Internal, "", "the job has no %s", k.id)
		}
		result.add(r.Disks[at], sums[2*i], sums[2*i+1])
	}
	if result.left, err = d.stack.snapshots(ctx); err != nil {
		return nil, err
	}
	if result.Redis, err = d.stack.counts(ctx, r); err != nil {
		return nil, err
	}
	return result, nil
}

// digests hashes each image and its target, two files at a time.
func (d *demo) digests(ctx context.Context, r report.Report) ([]string, error) {
	sums := make([]string, 2*len(d.disks))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(2)
	for i, k := range d.disks {
		target := ""
		for _, x := range r.Disks {
			if x.DiskID == k.id {
				target = x.Target
			}
		}
		for j, path := range []string{k.image, target} {
			group.Go(func() (err error) {
				sums[2*i+j], err = digest(ctx, path)
				return err
			})
		}
	}
	return sums, group.Wait()
}

// digest is the SHA-256 of a file.
func digest(ctx context.Context, path string) (_ string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, readUntil{ctx, f}, make([]byte, 1<<20)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// readUntil is a reader that stops when ctx ends.
type readUntil struct {
	ctx context.Context //nolint:containedctx // lives as long as one call of digest
	r   io.Reader
}

func (r readUntil) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// counts waits until Redis holds the end of the job, and counts its events and the jobs.
func (k *stack) counts(ctx context.Context, r report.Report) (redisCounts, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	key := "vmferry:v1:{" + string(r.JobID) + "}"
	for {
		status, err := k.store.HGet(ctx, key+":snap", "status").Result()
		if err == nil && job.Status(status) == r.Status {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return redisCounts{}, job.Errorf("look into Redis", job.Timeout, "",
				"Redis does not say that job %s is %s: it says %q (%v)", r.JobID, r.Status, status, err)
		}
	}
	events, err := k.store.XLen(ctx, key+":events").Result()
	if err != nil {
		return redisCounts{}, job.Errorf("look into Redis", job.Unavailable, "", "%w", err)
	}
	snaps := int64(0)
	for it := k.store.Scan(ctx, 0, "vmferry:v1:*:snap", 1000).Iterator(); it.Next(ctx); {
		snaps++
	}
	return redisCounts{events, snaps}, nil
}

// settled says whether the job has ended or waits for the cut-over.
func settled(r report.Report) bool { return cli.Ended(r) || r.Status == job.WaitingCutover }
