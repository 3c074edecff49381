package nbd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vmferry/vmferry/job"
)

// patience is how long lost connections are tried to get back. Every pass that moved something begins it anew.
type patience struct {
	most  time.Duration
	since time.Time // of the first loss without success since
	pause time.Duration
	last  error // why the last try failed
}

func newPatience(most time.Duration) *patience { return &patience{most: most} }

// lost takes that a pass ended; moved says whether it got anything done.
func (p *patience) lost(moved bool, now time.Time) {
	if moved || p.since.IsZero() {
		p.since, p.pause, p.last = now, reconnectPause, nil
	}
}

// wait pauses before the next try; it fails when there is none.
func (p *patience) wait(ctx context.Context) error {
	if left := p.most - time.Since(p.since); left < p.pause {
		err := p.last
		if err == nil {
			err = errors.New("it was lost again each time")
		}
		return job.Errorf("make the connection anew", job.Unavailable,
			"See whether the server runs and can be reached, then start the copy again.",
			"tried for %v: %w", p.most, fmt.Errorf("%w", err))
	}
	t := time.NewTimer(p.pause/2 + rand.N(p.pause/2+1)) //nolint:gosec // only so that not all come back at once
	defer t.Stop()
	p.pause = min(2*p.pause, reconnectPauseMost)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
