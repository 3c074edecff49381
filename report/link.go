package report

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// How the stream of one of our nodes is kept.
const (
	linkFirstPause = 500 * time.Millisecond
	linkMostPause  = 2 * time.Second // between two tries to connect
	// LinkPatience is how long a node that is not heard keeps the statuses of its jobs. Until then they are stale only.
	LinkPatience = 5 * time.Second
)

// Link is the stream of reports of one of our nodes. It is a plain value: Apply makes the next one.
type Link struct {
	Open    bool
	Begun   time.Time
	HeardAt time.Time // zero before the first time
	Errors  int       // in a row
	Reason  string    // of the last error; "" while it is open
	Away    bool      // it was not heard for LinkPatience: its jobs are unreachable
}

// LinkEvent is news of a link.
//
//sumtype:decl
type LinkEvent interface{ linkEvent() }

// The events.
type (
	// LinkBegun begins to follow a node.
	LinkBegun struct{}
	// LinkHeard says that the node has sent something.
	LinkHeard struct{}
	// LinkLost says that the stream has ended, or could not be opened.
	LinkLost struct{ Reason string }
	// LinkQuiet asks whether the patience is over.
	LinkQuiet struct{}
)

func (LinkBegun) linkEvent() {}
func (LinkHeard) linkEvent() {}
func (LinkLost) linkEvent()  {}
func (LinkQuiet) linkEvent() {}

// LinkAction is what must be done next, as a plain value.
//
//sumtype:decl
type LinkAction interface{ linkAction() }

// The actions.
type (
	// ConnectAt opens the stream at a time.
	ConnectAt struct{ At time.Time }
	// QuietAt asks again, by LinkQuiet, at a time.
	QuietAt struct{ At time.Time }
	// ShowNode makes reports of all jobs of the node that have not ended.
	ShowNode struct{}
)

func (ConnectAt) linkAction() {}
func (QuietAt) linkAction()   {}
func (ShowNode) linkAction()  {}

// Sight is how the OMA sees the jobs of the node. seen is when the node spoke of the job last.
func (l Link) Sight(seen time.Time) Sight {
	s := Sight{Stale: !l.Open, SeenAt: seen}
	if l.HeardAt.After(seen) {
		s.SeenAt = l.HeardAt // a node that is heard and says nothing of a job says that nothing has changed
	}
	if l.Away {
		s.Status, s.Reason, s.Since = job.Unreachable, l.Reason, s.SeenAt
		if s.Since.IsZero() {
			s.Since = l.Begun
		}
	}
	return s
}

// Apply makes the next state of an event, and says what to do. It is a pure function.
func (l Link) Apply(ev LinkEvent, now time.Time) (Link, []LinkAction) {
	switch ev := ev.(type) {
	case LinkBegun:
		l.Begun = now
		return l, []LinkAction{ConnectAt{now}}
	case LinkHeard:
		was := l.Open
		l.Open, l.HeardAt, l.Errors, l.Reason, l.Away = true, now, 0, "", false
		if !was {
			return l, []LinkAction{ShowNode{}}
		}
	case LinkLost:
		return l.lost(ev.Reason, now)
	case LinkQuiet:
		if !l.Open && !l.Away && !now.Before(l.patience()) {
			l.Away = true
			return l, []LinkAction{ShowNode{}}
		}
	}
	return l, nil
}

func (l Link) patience() time.Time {
	if l.HeardAt.IsZero() {
		return l.Begun.Add(LinkPatience)
	}
	return l.HeardAt.Add(LinkPatience)
}

func (l Link) lost(reason string, now time.Time) (Link, []LinkAction) {
	was, before := l.Open, l.Reason
	l.Open, l.Reason = false, reason
	actions := []LinkAction{ConnectAt{now.Add(min(linkMostPause, linkFirstPause<<min(l.Errors, 10)))}}
	l.Errors = min(l.Errors+1, 1000)
	switch {
	case l.Away && before != reason:
		return l, append(actions, ShowNode{})
	case l.Away:
		return l, actions
	case !now.Before(l.patience()):
		l.Away = true
		return l, append(actions, ShowNode{})
	case was || l.Errors == 1:
		return l, append(actions, QuietAt{l.patience()}, ShowNode{})
	default:
		return l, actions
	}
}
