package link

import (
	"errors"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
)

// State is how a link is.
type State string

// The states of a link.
const (
	Down State = "down"
	Up   State = "up"
)

// Event is a change of a link.
type Event struct {
	At     time.Time
	State  State
	Reason string // why it went down; "" for up
}

// Status is how the link with one peer is.
type Status struct {
	Name   string
	Role   string // "" before the peer was seen
	State  State
	Since  time.Time // of the state
	Reason string    // why it is down; "" if it is not

	Address   string        // of the peer, as this node sees it; where it is dialled, before it was seen
	Dialled   bool          // by this node
	RoundTrip time.Duration // of the last ping; 0 while not known
	Program   string        // the peer's version of vmferry; "" before it was seen
	Version   uint32        // of frames; 0 before it was seen
	Expires   time.Time     // when the peer's certificate ends; zero before it was seen
	Waiting   int           // messages that the peer has not acknowledged
	Refused   map[string]int64
	Events    []Event // the newest last
}

// peer is what this node knows of another one. It outlives the sessions with it.
type peer struct {
	name    string
	address string // to dial; "" to wait for it
	out     *outbox
	in      *inbox
	streams chan struct{} // permits of streams of actors

	mu      sync.Mutex
	now     *control // the session that has the name; nil for none
	up      bool
	status  Status
	changed chan struct{} // closed when a session ends
}

func newPeer(name, address string) *peer {
	return &peer{
		name: name, address: address, out: newOutbox(name), in: newInbox(), changed: make(chan struct{}),
		streams: make(chan struct{}, mostStreams),
		status: Status{
			Name: name, State: Down, Since: time.Now(), Reason: "not seen yet", Address: address,
			Refused: map[string]int64{},
		},
	}
}

// snapshot is the status now.
func (p *peer) snapshot() Status {
	waiting := p.out.waiting()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	s.Waiting, s.Refused, s.Events = waiting, maps.Clone(s.Refused), append([]Event(nil), s.Events...)
	if p.up {
		s.RoundTrip = time.Duration(p.now.trip.Load())
	}
	return s
}

func (p *peer) count(cause string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status.Refused[cause]++
}

// take gives the name to a new session, and returns the session that it replaces; nil for none. Another process that
// has the name and is heard keeps it: then the error is of kind Conflict. Of two sessions between the same processes
// one stays: the one that the node with the lesser name has dialled, else the newer one.
func (p *peer) take(c *control, self string) (old *control, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old = p.now
	if old != nil && old.hello.Incarnation != c.hello.Incarnation && old.silent() < fresh {
		return nil, &refusal{causeName, job.Errorf("link with "+p.name, job.Conflict,
			"Give each node a name and a certificate of its own, or stop one of the two",
			"another process is linked as node %s, from %s since %s", p.name, old.remote,
			old.began.UTC().Format(time.RFC3339))}
	}
	if old != nil && old.hello.Incarnation == c.hello.Incarnation && old.dialled != c.dialled &&
		old.dialled == lesser(self, p.name) && old.silent() < fresh {
		return nil, &refusal{causeName, job.Errorf("link with "+p.name, job.Conflict, "Nothing is to be done",
			"this session stays: %s", errTwice)}
	}
	p.now, p.up = c, false
	p.in.begin(c.hello.Incarnation)
	return old, nil
}

// lesser says which of two names comes first. Both nodes say the same, in whatever case each knows the other's name.
func lesser(a, b string) bool { return strings.ToLower(a) < strings.ToLower(b) }

const errTwice = "both nodes have dialled at once"

// rise notes that a session is up; false if it has lost its name meanwhile.
func (p *peer) rise(c *control) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != c {
		return false
	}
	p.up = true
	s := &p.status
	s.Role, s.State, s.Since, s.Reason = c.hello.Role, Up, time.Now(), ""
	s.Address, s.Dialled, s.Program, s.Version, s.Expires = c.remote, c.dialled, c.hello.Program, c.version,
		c.id.NotAfter
	p.event(Event{At: s.Since, State: Up})
	return true
}

// fall notes that a session is over; was says whether it was up.
func (p *peer) fall(c *control, reason error) (was bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != c {
		return false
	}
	was, p.up, p.now = p.up, false, nil
	p.down(reason, was)
	close(p.changed)
	p.changed = make(chan struct{})
	return was
}

// missed notes why a dial has failed, and says whether that is news.
func (p *peer) missed(reason error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.now != nil || p.status.Reason == reasonOf(reason) {
		return false
	}
	p.down(reason, false)
	return true
}

func (p *peer) down(reason error, was bool) {
	s := &p.status
	s.Reason = reasonOf(reason)
	if was {
		s.State, s.Since = Down, time.Now()
		p.event(Event{At: s.Since, State: Down, Reason: s.Reason})
	}
}

func (p *peer) event(e Event) {
	s := &p.status
	s.Events = append(s.Events[max(0, len(s.Events)-mostEvents+1):], e)
}

// reasonOf is an error in one line, without what differs from one try to the next.
func reasonOf(err error) string {
	if err == nil {
		return "closed"
	}
	if e, ok := errors.AsType[*job.Error](err); ok && e.Err != nil {
		err = e.Err
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}

// session is the session that is up and a channel that is closed when it ends; nil if the link is down.
func (p *peer) session() (*control, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.up {
		return nil, p.changed
	}
	return p.now, p.changed
}

// busy says whether a session has the name, up or not, and returns a channel that is closed when a session ends.
func (p *peer) busy() (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now != nil, p.changed
}
