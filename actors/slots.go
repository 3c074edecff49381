package actors

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// slots share out what the disks of all jobs have in common: how many are copied at the same time by this node and from
// one ESXi host, over how many connections, with how many bytes in flight, how fast. Limits may be changed while disks
// run: those that run keep what they have until their attempt ends, all others wait for their turn. Its methods may be
// called from any goroutine.
type slots struct {
	node *rate.Limiter

	mu      sync.Mutex
	limits  job.Limits
	hosts   map[string]*hostShare
	granted []*lease
	waiting []*lease // first come, first served, but for those whose host is full
}

// hostShare is what all copies from one host share.
type hostShare struct {
	budget  *nbd.Budget
	limiter *rate.Limiter
}

// lease is what one attempt at a disk may use, or waits for.
type lease struct {
	job         job.ID
	jobDisks    func() int    // most of the job at the same time; 0 for no limit
	limiter     *rate.Limiter // of all disks of the job
	host        string
	connections int
	ready       chan struct{} // closed when it is granted
}

// Share is what a copy must keep to. The limits may be changed while it runs.
type Share struct {
	Limiters []*rate.Limiter
	Budget   *nbd.Budget
}

func newSlots(l job.Limits) *slots {
	s := &slots{node: rate.NewLimiter(rate.Inf, burst), hosts: map[string]*hostShare{}}
	s.set(l)
	return s
}

// set changes the limits.
func (s *slots) set(l job.Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
	setRate(s.node, l.Bandwidth)
	for _, h := range s.hosts {
		s.tune(h)
	}
	s.grant()
}

// tune gives a host's share the limits.
func (s *slots) tune(h *hostShare) {
	h.budget.SetLimit(s.limits.HostBytes)
	setRate(h.limiter, s.limits.HostBandwidth)
}

func setRate(l *rate.Limiter, bytesPerSecond int64) {
	if bytesPerSecond <= 0 {
		l.SetLimit(rate.Inf)
		return
	}
	l.SetLimit(rate.Limit(bytesPerSecond))
}

// get returns the limits in force.
func (s *slots) get() job.Limits {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limits
}

// acquire waits until a disk may be copied. The lease must be given back by release, unless the error is that of ctx.
func (s *slots) acquire(ctx context.Context, l *lease) (Share, error) {
	l.ready = make(chan struct{})
	s.mu.Lock()
	s.waiting = append(s.waiting, l)
	s.grant()
	s.mu.Unlock()
	select {
	case <-l.ready:
		return s.share(l), nil
	case <-ctx.Done():
		s.release(l)
		return Share{}, context.Cause(ctx)
	}
}

func (s *slots) share(l *lease) Share {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.hosts[l.host]
	if h == nil {
		h = &hostShare{budget: nbd.NewBudget(0), limiter: rate.NewLimiter(rate.Inf, burst)}
		s.hosts[l.host] = h
		s.tune(h)
	}
	return Share{Limiters: []*rate.Limiter{l.limiter, s.node, h.limiter}, Budget: h.budget}
}

// release gives a lease back, or takes its request back.
func (s *slots) release(l *lease) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := func(x *lease) bool { return x == l }
	s.granted = slices.DeleteFunc(s.granted, same)
	s.waiting = slices.DeleteFunc(s.waiting, same)
	s.grant()
}

// again looks whether somebody's turn has come: the limit of a job was changed.
func (s *slots) again() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grant()
}

// grant lets in who fits. Who waits for a full host does not hold up those of others, but nobody of the same host
// overtakes.
func (s *slots) grant() {
	full := map[string]bool{}
	s.waiting = slices.DeleteFunc(s.waiting, func(l *lease) bool {
		if full[l.host] || full["job "+string(l.job)] {
			return false
		}
		switch missing := s.missing(l); missing {
		case "":
			s.granted = append(s.granted, l)
			close(l.ready)
			return true
		case missingJob:
			full["job "+string(l.job)] = true
		default:
			full[l.host] = true
		}
		return false
	})
}

const missingJob = "another disk of the job to be done: options.disks"

// missing names what a lease waits for; "" if nothing.
func (s *slots) missing(l *lease) string {
	ofNode, ofHost, ofJob, connections := 0, 0, 0, 0
	for _, g := range s.granted {
		ofNode++
		if g.job == l.job {
			ofJob++
		}
		if g.host == l.host {
			ofHost++
			connections += g.connections
		}
	}
	of := s.limits
	switch {
	case of.Disks > 0 && ofNode >= of.Disks:
		return fmt.Sprintf("one of the %d disks that this node copies at the same time: limits.disks", of.Disks)
	case of.HostDisks > 0 && ofHost >= of.HostDisks:
		return fmt.Sprintf("one of the %d disks that are read from %s at the same time: limits.disks_per_host",
			of.HostDisks, l.host)
	case of.HostConnections > 0 && ofHost > 0 && connections+l.connections > of.HostConnections:
		return fmt.Sprintf("one of the %d connections to %s: limits.connections_per_host", of.HostConnections, l.host)
	case l.jobDisks != nil && l.jobDisks() > 0 && ofJob >= l.jobDisks():
		return missingJob
	default:
		return ""
	}
}

// waits says what a lease waits for; "" if it does not, or not any more.
func (s *slots) waits(l *lease) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.waiting, l) {
		return ""
	}
	if why := s.missing(l); why != "" {
		return why
	}
	return "its turn"
}

// use is how much is in use now, host by host.
func (s *slots) use() []job.HostUse {
	s.mu.Lock()
	defer s.mu.Unlock()
	by := map[string]*job.HostUse{}
	at := func(host string) *job.HostUse {
		if by[host] == nil {
			by[host] = &job.HostUse{Host: host}
		}
		return by[host]
	}
	for _, l := range s.granted {
		u := at(l.host)
		u.Disks++
		u.Connections += l.connections
	}
	for _, l := range s.waiting {
		at(l.host).Waiting++
	}
	out := make([]job.HostUse, 0, len(by))
	for name, u := range by {
		if h := s.hosts[name]; h != nil {
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
