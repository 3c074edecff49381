package nbd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vmferry/vmferry/job"
)

// patience bounds how long a copy tries to reconnect. Each pass with progress begins the time anew.
type patience struct {
	most  time.Duration
	since time.Time // the first loss since the last progress
	pause time.Duration
	last  error // why the last try failed
}

func newPatience(most time.Duration) *patience { return &patience{most: most} }

// lost takes note of a pass that ended with a lost connection; moved says whether the pass made progress.
func (p *patience) lost(moved bool, now time.Time) {
	if moved || p.since.IsZero() {
		p.since, p.pause, p.last = now, reconnectPause, nil
	}
}

// wait pauses before the next try. It returns an error when the time is over, or ctx ends.
func (p *patience) wait(ctx context.Context) error {
	if left := p.most - time.Since(p.since); left < p.pause {
		err := p.last
		if err == nil {
			err = errors.New("each new connection was lost again")
		}
		return job.Errorf("make the connection anew", job.Unavailable,
			"Check that the server runs and can be reached, then start the copy again",
			"tried for %v: %w", p.most, fmt.Errorf("%w", err))
	}
	t := time.NewTimer(p.pause/2 + rand.N(p.pause/2+1)) //nolint:gosec // spreads the tries of many copies
	defer t.Stop()
	p.pause = min(2*p.pause, reconnectPauseMost)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
