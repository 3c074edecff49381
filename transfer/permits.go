package transfer

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Permits share out what the disks of all jobs have in common: how many are copied at the same time by this node and
// from one ESXi host, over how many connections, with how many bytes in flight, how fast. Limits may be changed while
// disks run: a running attempt keeps its permit until it ends, all others wait. Its methods may be called from any
// goroutine.
type Permits struct {
	node *rate.Limiter

	mu      sync.Mutex
	limits  job.Limits
	hosts   map[string]*hostShare
	jobs    map[job.ID]*jobShare
	granted []*Permit
	waiting []*Permit // first come, first served, except while their host or job is full
}

// jobShare is what the disks of one job share.
type jobShare struct {
	limiter *rate.Limiter
	disks   int // at the same time; 0 for no limit
}

// What may pass a bandwidth limit at once: a quarter of a second's worth, within these bytes.
const (
	leastBurst = 64 << 10
	burst      = 8 << 20
)

// Burst is how many bytes may pass at once under a limit of so many bytes per second.
func Burst(bytesPerSecond int64) int64 { return max(leastBurst, min(burst, bytesPerSecond/4)) }

// hostShare is what all copies from one host share.
type hostShare struct {
	budget  *nbd.Budget
	limiter *rate.Limiter
}

// Permit is the right of one attempt to copy a disk, granted or waited for.
type Permit struct {
	Job         job.ID
	Limits      job.TransferLimits // of the job, as the attempt knows them
	Host        string
	Connections int
	ready       chan struct{} // closed when it is granted
}

// Share is what a copy must keep to. The limits may be changed while it runs.
type Share struct {
	Limiters []*rate.Limiter
	Budget   *nbd.Budget
}

// NewPermits makes them, with these limits in force.
func NewPermits(l job.Limits) *Permits {
	p := &Permits{node: rate.NewLimiter(rate.Inf, burst), hosts: map[string]*hostShare{}, jobs: map[job.ID]*jobShare{}}
	p.SetLimits(l)
	return p
}

// SetLimits changes the limits. Running copies keep to those of speed and of bytes in flight at once; all others count
// for the next permits.
func (p *Permits) SetLimits(l job.Limits) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.limits = l
	setRate(p.node, l.Bandwidth)
	for _, h := range p.hosts {
		p.tune(h)
	}
	p.grant()
}

// tune gives a host's share the limits.
func (p *Permits) tune(h *hostShare) {
	h.budget.SetLimit(p.limits.HostBytes)
	setRate(h.limiter, p.limits.HostBandwidth)
}

func setRate(l *rate.Limiter, bytesPerSecond int64) {
	if bytesPerSecond <= 0 {
		l.SetLimit(rate.Inf)
		return
	}
	l.SetBurst(int(Burst(bytesPerSecond)))
	l.SetLimit(rate.Limit(bytesPerSecond))
}

// Limits are those in force, and what is in use, host by host.
func (p *Permits) Limits() (job.Limits, []job.HostUse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limits, p.use()
}

// Acquire waits until a disk may be copied. The permit must be given back by Release, unless the error is that of ctx.
func (p *Permits) Acquire(ctx context.Context, l *Permit) (Share, error) {
	l.ready = make(chan struct{})
	p.mu.Lock()
	if p.jobs[l.Job] == nil { // what LimitJob set is newer than what the attempt knows
		p.jobs[l.Job] = newJobShare(l.Limits)
	}
	p.waiting = append(p.waiting, l)
	p.grant()
	p.mu.Unlock()
	select {
	case <-l.ready:
		return p.share(l), nil
	case <-ctx.Done():
		p.Release(l)
		return Share{}, context.Cause(ctx)
	}
}

func (p *Permits) share(l *Permit) Share {
	p.mu.Lock()
	defer p.mu.Unlock()
	h := p.hosts[l.Host]
	if h == nil {
		h = &hostShare{budget: nbd.NewBudget(0), limiter: rate.NewLimiter(rate.Inf, burst)}
		p.hosts[l.Host] = h
		p.tune(h)
	}
	of := p.jobs[l.Job]
	if of == nil { // forgotten meanwhile
		of = newJobShare(l.Limits)
	}
	return Share{Limiters: []*rate.Limiter{of.limiter, p.node, h.limiter}, Budget: h.budget}
}

func newJobShare(l job.TransferLimits) *jobShare {
	of := &jobShare{limiter: rate.NewLimiter(rate.Inf, burst), disks: l.Disks}
	setRate(of.limiter, l.Bandwidth)
	return of
}

// LimitJob changes the limits of a job; its running copies keep to the new speed at once.
func (p *Permits) LimitJob(id job.ID, l job.TransferLimits) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if of := p.jobs[id]; of != nil {
		of.disks = l.Disks
		setRate(of.limiter, l.Bandwidth)
	} else {
		p.jobs[id] = newJobShare(l)
	}
	p.grant()
}

// Forget drops what is kept of a job.
func (p *Permits) Forget(id job.ID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.jobs, id)
}

// Release gives a permit back, or takes its request back.
func (p *Permits) Release(l *Permit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	same := func(x *Permit) bool { return x == l }
	p.granted = slices.DeleteFunc(p.granted, same)
	p.waiting = slices.DeleteFunc(p.waiting, same)
	p.grant()
}

// grant grants every permit that the limits allow. A permit that waits for a full host holds up no other host's, and
// none of the same host overtakes it.
func (p *Permits) grant() {
	full := map[string]bool{}
	p.waiting = slices.DeleteFunc(p.waiting, func(l *Permit) bool {
		if full[l.Host] || full["job "+string(l.Job)] {
			return false
		}
		switch missing := p.missing(l); missing {
		case "":
			p.granted = append(p.granted, l)
			close(l.ready)
			return true
		case missingJob:
			full["job "+string(l.Job)] = true
		default:
			full[l.Host] = true
		}
		return false
	})
}

const missingJob = "job limit reached: another disk of the job is copied (options.disks)"

// missing names what a permit waits for; "" if nothing.
func (p *Permits) missing(l *Permit) string {
	ofNode, ofHost, ofJob, connections := 0, 0, 0, 0
	for _, g := range p.granted {
		ofNode++
		if g.Job == l.Job {
			ofJob++
		}
		if g.Host == l.Host {
			ofHost++
			connections += g.Connections
		}
	}
	of := p.limits
	switch {
	case of.Disks > 0 && ofNode >= of.Disks:
		return fmt.Sprintf("node limit reached: %d disks at the same time (limits.disks)", of.Disks)
	case of.HostDisks > 0 && ofHost >= of.HostDisks:
		return fmt.Sprintf("host limit reached: %d disks on %s (limits.disks_per_host)", of.HostDisks, l.Host)
	case of.HostConnections > 0 && ofHost > 0 && connections+l.Connections > of.HostConnections:
		return fmt.Sprintf("host limit reached: %d connections to %s (limits.connections_per_host)",
			of.HostConnections, l.Host)
	case p.jobs[l.Job] != nil && p.jobs[l.Job].disks > 0 && ofJob >= p.jobs[l.Job].disks:
		return missingJob
	default:
		return ""
	}
}

// Waits says what a permit waits for; "" if it does not, or not any more.
func (p *Permits) Waits(l *Permit) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.waiting, l) {
		return ""
	}
	if why := p.missing(l); why != "" {
		return why
	}
	return "its turn"
}

// use is how much is in use now, host by host. The caller holds mu.
func (p *Permits) use() []job.HostUse {
	by := map[string]*job.HostUse{}
	at := func(host string) *job.HostUse {
		if by[host] == nil {
			by[host] = &job.HostUse{Host: host}
		}
		return by[host]
	}
	for _, l := range p.granted {
		u := at(l.Host)
		u.Disks++
		u.Connections += l.Connections
	}
	for _, l := range p.waiting {
		at(l.Host).Waiting++
	}
	out := make([]job.HostUse, 0, len(by))
	for name, u := range by {
		if h := p.hosts[name]; h != nil {
			u.BytesInFlight = h.budget.Used()
		}
		out = append(out, *u)
	}
	slices.SortFunc(out, func(a, b job.HostUse) int {
		if a.Host < b.Host {
			return -1
		}
		return 1
	})
	return out
}
