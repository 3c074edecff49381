package app

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// remote is a vCenter that can die in two ways.
type remote struct {
	mu              sync.Mutex
	silent, refuses bool
	probes          int
}

func (r *remote) becomes(silent, refuses bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.silent, r.refuses = silent, refuses
}

func (r *remote) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.probes
}

func (r *remote) answer(ctx context.Context) error {
	r.mu.Lock()
	r.probes++
	silent, refuses := r.silent, r.refuses
	r.mu.Unlock()
	switch {
	case silent:
		<-ctx.Done()
		return ctx.Err()
	case refuses:
		return job.Errorf("connect", job.Unavailable, "", "connection refused")
	default:
		return nil
	}
}

func TestAVCenterThatDiesIsSeenWithinSecondsOfACallAndSoonWithout(t *testing.T) {
	for _, tc := range []struct {
		name         string
		call         bool
		silent       bool
		most         time.Duration
		secondsAfter int // how long the vCenter has been well
	}{
		{"a call gets no answer", true, true, 6 * time.Second, 40},
		{"a call gets no answer, soon after a probe", true, true, 6 * time.Second, 31},
		{"nothing is asked, no answer", false, true, 20 * time.Second, 40},
		{"nothing is asked, refused", false, false, 16 * time.Second, 47},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, r, end := watched(t)
				defer end()
				time.Sleep(time.Duration(tc.secondsAfter) * time.Second)
				synctest.Wait()
				if s := w.state(); s.State != rest.VCenterOK || r.asked() > 5 {
					t.Errorf("it is %+v after %d probes", s, r.asked())
				}
				died := time.Now()
				r.becomes(tc.silent, !tc.silent)
				if tc.call {
					defer w.begin()(nil)
				}
				for !w.state().State.Down() && time.Since(died) < time.Minute {
					time.Sleep(100 * time.Millisecond)
				}
				if took := time.Since(died); took > tc.most {
					t.Errorf("it was seen after %v", took)
				}
				if s := w.state(); s.State != rest.VCenterUnreachable || s.Message == "" || s.Since.Before(died) {
					t.Errorf("it is %+v", s)
				}
				synctest.Wait()
				r.becomes(false, false)
				time.Sleep(probeMost + probeDown)
				if s := w.state(); s.State != rest.VCenterOK || s.Message != "" {
					t.Errorf("it is back, and is %+v", s)
				}
			})
		})
	}
}

// watched is a watch that probes a vCenter until end.
func watched(t *testing.T) (w *vcenterWatch, r *remote, end func()) {
	t.Helper()
	w, r = newVCenterWatch(rest.VCenterUnknown, slog.New(slog.DiscardHandler)), &remote{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.run(ctx, func(ctx context.Context) error { return w.look(ctx, r.answer) })
	}()
	return w, r, func() { cancel(); <-done }
}

func TestAnErrorOfATaskIsNotOneOfTheVCenter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, r, end := watched(t)
		defer end()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		before := r.asked()
		w.begin()(job.Errorf("take snapshot", job.Unavailable, "", "the host is busy"))
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if s := w.state(); s.State != rest.VCenterOK || r.asked() != before+1 {
			t.Errorf("it is %+v after %d more probes", s, r.asked()-before)
		}
	})
}
