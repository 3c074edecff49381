package vsphere

import (
	"context"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"

	"github.com/vmferry/vmferry/job"
)

// pulse asks the vCenter for the time again and again while calls are under way. An answer says that it is alive and
// that the calls are only slow; without one they count as unanswered (job.Calls).
type pulse struct {
	mu   sync.Mutex
	open map[*job.Call]struct{}
	stop context.CancelFunc // of the goroutine that asks; nil while none does
}

const (
	pulseEvery   = 2 * time.Second
	pulseTimeout = 3 * time.Second
)

// calling notes a call until done is called with its error.
func (c *Client) calling(ctx context.Context) (done func(error)) {
	call := job.Calling(ctx, job.PeerVCenter)
	if call == nil {
		return func(error) {}
	}
	p := &c.pulse
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open == nil {
		p.open = map[*job.Call]struct{}{}
	}
	p.open[call] = struct{}{}
	if p.stop == nil {
		var asking context.Context
		asking, p.stop = context.WithCancel(context.WithoutCancel(ctx))
		go c.ask(asking)
	}
	return func(err error) {
		_ = call.Done(err)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.open, call)
		if len(p.open) == 0 && p.stop != nil {
			p.stop()
			p.stop = nil
		}
	}
}

func (c *Client) ask(ctx context.Context) {
	tick := time.NewTicker(pulseEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		call, cancel := context.WithTimeout(ctx, pulseTimeout)
		_, err := methods.GetCurrentTime(call, c.vim)
		cancel()
		if err != nil && !soap.IsSoapFault(err) {
			continue
		}
		c.pulse.mu.Lock()
		if ctx.Err() == nil {
			for call := range c.pulse.open {
				call.Heard()
			}
		}
		c.pulse.mu.Unlock()
	}
}
