package app

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
)

// When the vCenter is probed, unless a call has just succeeded. A vCenter that dies is seen within 6 s while a call
// waits for it, and within 20 s while it is idle.
const (
	probeTime  = 4 * time.Second  // without an answer, after which a vCenter is unreachable
	probeMost  = 20 * time.Second // for one probe; a first login can be slow
	probeIdle  = 15 * time.Second // between two probes while nothing waits
	probeDown  = 5 * time.Second  // the same while the vCenter cannot be used
	probeBusy  = 2 * time.Second  // the same while a call has been waiting for probeAfter
	probeAfter = time.Second
	probeTick  = time.Second // how often it is looked whether a probe is due, and the least time between two probes
)

// vcenterWatch knows how the vCenter is now. Its methods may be called from many goroutines.
type vcenterWatch struct {
	log  *slog.Logger
	kick chan struct{} // holds a token when a call has failed so that a probe should tell why

	mu    sync.Mutex
	now   rest.VCenter
	heard time.Time // when it was last looked at, with whatever result
	next  int       // number of the next call
	calls map[int]time.Time
}

func newVCenterWatch(state rest.VCenterState, log *slog.Logger) *vcenterWatch {
	return &vcenterWatch{
		log: log, kick: make(chan struct{}, 1), calls: map[int]time.Time{},
		now: rest.VCenter{State: state, Since: time.Now().UTC()},
	}
}

// state is how the vCenter is now.
func (w *vcenterWatch) state() rest.VCenter {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

// begin counts a call that waits for the vCenter. The returned function takes its result.
func (w *vcenterWatch) begin() func(error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := w.next
	w.next++
	w.calls[n] = time.Now()
	return func(err error) {
		w.mu.Lock()
		delete(w.calls, n)
		w.mu.Unlock()
		switch job.KindOf(err) {
		case "":
			w.found(nil)
		case job.Unavailable, job.Timeout, job.Auth, job.Internal, job.IO:
			select { // such an error can also be one of a task or a host: a probe tells
			case w.kick <- struct{}{}:
			default:
			}
		case job.Invalid, job.NotFound, job.Conflict, job.Permission, job.NoSpace, job.Corrupt, job.Unsupported,
			job.CBTInvalid, job.Cancelled, job.Missing, job.Fenced:
		}
	}
}

// found takes what a probe or a successful call has found. A change is logged.
func (w *vcenterWatch) found(err error) {
	if job.KindOf(err) == job.Cancelled {
		return
	}
	now, state := time.Now().UTC(), vcenterState(err)
	w.mu.Lock()
	before := w.now
	w.heard = now
	w.now.State, w.now.CheckedAt, w.now.Message, w.now.Next = state, &now, "", ""
	if err != nil {
		w.now.Message, w.now.Next = err.Error(), job.NextOf(err)
	}
	if state != before.State {
		w.now.Since = now
	}
	w.mu.Unlock()
	switch {
	case state == before.State:
	case err != nil:
		w.log.Warn("the vCenter cannot be used", "state", state, "err", err, "next", job.NextOf(err))
	case before.State.Down():
		w.log.Info("the vCenter can be used again", "was", before.State, "since", before.Since)
	}
}

func vcenterState(err error) rest.VCenterState {
	switch kind := job.KindOf(err); {
	case err == nil:
		return rest.VCenterOK
	case vsphere.Untrusted(err):
		return rest.VCenterWrongCertificate
	case kind == job.Auth:
		return rest.VCenterWrongPassword
	case kind == job.Unavailable, kind == job.Timeout:
		return rest.VCenterUnreachable
	default:
		return rest.VCenterUnusable
	}
}

// due says whether it is time for a probe.
func (w *vcenterWatch) due(now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	silence := now.Sub(w.heard)
	if silence >= probeIdle || w.now.State.Down() && silence >= probeDown {
		return true
	}
	for _, began := range w.calls {
		if now.Sub(began) >= probeAfter && silence >= probeBusy {
			return true
		}
	}
	return false
}

// run probes until ctx ends.
func (w *vcenterWatch) run(ctx context.Context, probe func(context.Context) error) {
	tick := time.NewTicker(probeTick)
	defer tick.Stop()
	for ctx.Err() == nil {
		if w.kicked() || w.due(time.Now()) {
			_ = probe(ctx) // found has the result
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func (w *vcenterWatch) kicked() bool {
	select {
	case <-w.kick:
		return true
	default:
		return false
	}
}

// probe looks at the vCenter now. It logs in where there is no session.
func (v *vcenter) probe(ctx context.Context) error {
	if err := v.configured(); err != nil {
		return err
	}
	return v.watch.look(ctx, func(ctx context.Context) error {
		c, err := v.client(ctx)
		if err != nil {
			return err
		}
		return c.Probe(ctx)
	})
}

// look takes what one call finds. A first login may take longer than probeTime: the vCenter is shown as unreachable
// meanwhile.
func (w *vcenterWatch) look(ctx context.Context, ask func(context.Context) error) error {
	asking, cancel := context.WithTimeout(ctx, probeMost)
	defer cancel()
	late := time.AfterFunc(probeTime, func() { w.found(noAnswer(probeTime)) })
	err := ask(asking)
	late.Stop()
	if err != nil && ctx.Err() == nil && asking.Err() != nil {
		err = noAnswer(probeMost)
	}
	w.found(err)
	return err
}

func noAnswer(within time.Duration) error {
	return job.Errorf("probe the vCenter", job.Timeout, "Look whether the vCenter runs and can be reached from here",
		"it has not answered for %v", within)
}
