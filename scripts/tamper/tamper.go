package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// tamper is one call of the command.
type tamper struct {
	options
	score *score
}

// batch is how many seeds share a vCenter and a daemon.
const batch = 25

// run plays all seeds. It ends early if a part of the rehearsal itself fails.
func (t *tamper) run(ctx context.Context) error {
	devices := loopDevices()
	if devices != nil {
		if os.Getenv("CI") == "true" {
			return devices
		}
		say("NO DEVICES: loop devices can't be made here, files take their place: %v", devices)
		t.score.without(onDevice)
	}
	for at := 0; at < t.seeds && ctx.Err() == nil; at += batch {
		if err := t.batch(ctx, at, min(t.seeds, at+batch), devices == nil); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// batch plays the seeds with the indexes from until to, some of them at the same time.
func (t *tamper) batch(ctx context.Context, from, to int, devices bool) (err error) {
	dir := filepath.Join(t.dir, fmt.Sprint("b", from/batch))
	plans := make([]plan, 0, to-from)
	for i := from; i < to; i++ {
		plans = append(plans, makePlan(t.first+uint64(i), devices))
	}
	st := &stack{dir: dir, vmferry: t.vmferry}
	defer func() {
		st.end()
		if !t.keep {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	if err := st.furnish(ctx, plans); err != nil {
		return err
	}
	work := make(chan plan)
	errs := make([]error, t.workers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var all sync.WaitGroup
	for w := range t.workers {
		all.Go(func() {
			for p := range work {
				if err := playSeed(ctx, st, t.score, p); err != nil && ctx.Err() == nil {
					errs[w] = errors.Join(errs[w], fmt.Errorf("seed %d: %w", p.seed, err))
					cancel()
				}
			}
		})
	}
	for _, p := range plans {
		select {
		case work <- p:
		case <-ctx.Done():
		}
	}
	close(work)
	all.Wait()
	return errors.Join(errs...)
}
