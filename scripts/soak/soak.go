package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"time"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// soak is one run.
type soak struct {
	vmferry string
	dir     string
	want    int            // kills
	only    *regexp.Regexp // of victims; nil for all
	random  *rand.Rand
	stack   stack
	disks   []disk
	results *results
	jobs    int
}

const (
	bandwidth = 160 * mib              // of a job: a round takes some seconds
	killLeast = 250 * time.Millisecond // between two kills
	killMost  = 1500 * time.Millisecond
	roundTime = 3 * time.Minute       // most that a round may take
	lookEvery = 60 * time.Millisecond // at the job's report
)

func (s *soak) run(ctx context.Context) (err error) {
	if s.disks, err = makeDisks(ctx, s.dir, s.random.Uint64()); err != nil {
		return err
	}
	if err := s.stack.furnish(ctx, s.vmferry, s.dir, s.disks); err != nil {
		return err
	}
	for s.results.kills() < s.want {
		if err := s.job(ctx); err != nil {
			return err
		}
	}
	s.settled(ctx)
	return nil
}

// job moves the VM once, in three rounds, and compares targets with sources.
func (s *soak) job(ctx context.Context) error {
	s.jobs++
	mode := job.Full
	if s.jobs%3 == 0 {
		mode = job.Auto
	}
	spec := job.Spec{VM: "web", Mode: mode, Options: job.Options{
		Verify: job.VerifySample, Bandwidth: bandwidth,
		Cutover: job.CutoverManual,
	}}
	if s.jobs%2 == 0 {
		spec.Options.Verify = job.VerifyFull
	}
	for _, d := range s.disks {
		spec.Targets = append(spec.Targets, job.Target{Disk: d.id, URI: d.target})
	}
	r, _, err := s.stack.client.Submit(ctx, spec, rest.SubmitOptions{})
	if err != nil {
		return err
	}
	say("job %d: %s (%s, verify %s)", s.jobs, r.JobID, mode, spec.Options.Verify)
	if err := s.round(ctx, r.JobID, 1); err != nil {
		return err
	}
	if err := s.next(ctx, r.JobID, 2, job.Sync); err != nil {
		return err
	}
	if err := s.next(ctx, r.JobID, 3, job.CutoverNow); err != nil {
		return err
	}
	return s.compare(ctx)
}

// next writes to the disks as the guest would, and begins a round.
func (s *soak) next(ctx context.Context, id job.ID, round int, verb job.Verb) error {
	for _, d := range s.disks {
		for range 20 {
			length := 4096 * (1 + s.random.Int64N(256))
			off := s.random.Int64N((d.size-length)/4096) * 4096
			if d.ext4 {
				// where no file is, for a write into its structures would damage the file system
				off = d.size - 8*mib + off%(6*mib)
				length = min(length, d.size-off)
			}
			if err := s.stack.write(ctx, d.id, off, length, s.random.Uint64()); err != nil {
				return err
			}
		}
	}
	// A daemon that was killed may not be ready yet.
	var err error
	if werr := child.Until(ctx, pollEvery, readyTime, "the daemon takes a command", func() bool {
		err = s.stack.client.Command(ctx, id, verb)
		return err == nil
	}); werr != nil {
		return errors.Join(werr, err)
	}
	return s.round(ctx, id, round)
}

// round kills victims until the round ends.
func (s *soak) round(ctx context.Context, id job.ID, round int) error {
	ctx, cancel := context.WithTimeout(ctx, roundTime)
	defer cancel()
	w := &watcher{soak: s, id: id, round: round}
	var watching sync.WaitGroup
	over := make(chan struct{})
	watching.Go(func() { w.watch(ctx, over) })
	for ctx.Err() == nil && !w.ended() && s.results.kills() < s.want {
		pause(ctx, over, s.spacing(w.seen().Phase))
		if w.ended() || ctx.Err() != nil {
			break
		}
		if err := s.kill(ctx, w); err != nil {
			cancel()
			watching.Wait()
			return err
		}
	}
	watching.Wait()
	return w.verdict()
}

// spacing is the time until the next kill. Verification starts anew after each kill, so it gets three times as long.
func (s *soak) spacing(p job.Phase) time.Duration {
	d := killLeast + time.Duration(s.random.Int64N(int64(killMost-killLeast)))
	if p == job.Verify {
		d *= 3
	}
	return d
}

// pause waits for d, or until over is closed or ctx ends.
func pause(ctx context.Context, over <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-over:
	case <-ctx.Done():
	}
}

// compare compares each target with its source.
func (s *soak) compare(ctx context.Context) error {
	for _, d := range s.disks {
		if d.id == "disk-2001" { // its target is in memory
			_ = os.Remove(d.copy)
			//nolint:gosec // ourselves
			if text, err := exec.CommandContext(ctx, s.vmferry, "copy", "--progress", "quiet", d.target,
				d.copy).CombinedOutput(); err != nil {
				return fmt.Errorf("read %s back: %w: %s", d.target, err, text)
			}
		}
		n, err := differing(d.image, d.copy)
		if err != nil {
			return err
		}
		s.results.differing += n
		if n > 0 {
			say("%s: %d bytes differ", d.id, n)
		}
		if d.ext4 {
			//nolint:gosec // our own path
			if text, err := exec.CommandContext(ctx, "e2fsck", "-fn", d.copy).CombinedOutput(); err != nil {
				s.results.problem("e2fsck: %v: %s", err, text)
			}
		}
	}
	return nil
}
