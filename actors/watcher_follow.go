package actors

import (
	"context"
	"errors"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// follower is the Watcher of one of our nodes. It follows the node's stream of reports, and goes on where it was after
// a break. What the node says is passed on to the Aggregator as it comes.
type follower struct {
	*deps
	node       *watchedNode
	aggregator *actor.PID
	link       report.Link
	jobs       map[job.ID]*followed
	last       string // ID of the last event
	running    *work
	timer      *scheduler.TimerScheduler
	run        int // counts the connections
}

// followed is one job of the node.
type followed struct {
	report  report.Report // as the node made it
	version report.Version
	seen    time.Time
	lost    *report.Sight // the node does not know it any more
	before  bool          // of before the restart: the node has not spoken of it since
}

type (
	// came is what the node has sent over a connection.
	came struct {
		noDeadLetterLog
		run   int
		event PeerEvent
	}
	// broke says that a connection has ended.
	broke struct {
		noDeadLetterLog
		run int
		err error
	}
	// connect opens the next connection.
	connect struct{ noDeadLetterLog }
	// quiet asks whether the patience is over.
	quiet struct{ noDeadLetterLog }
)

func newFollower(d *deps, n *watchedNode, aggregator *actor.PID, last []report.Report) *follower {
	f := &follower{deps: d, node: n, aggregator: aggregator, jobs: map[job.ID]*followed{}}
	for _, r := range last {
		see := r.Sight()
		k := &followed{report: r.AsItWas(), seen: see.SeenAt, before: true}
		k.version, _ = report.ParseVersion(k.report.Watched.Version)
		if see.Status == job.Lost {
			k.lost = &see
		}
		if see.Status == job.Unreachable {
			f.link.Away, f.link.Reason = true, see.Reason
			if see.SeenAt.After(f.link.HeardAt) {
				f.link.HeardAt = see.SeenAt
			}
		}
		f.jobs[r.JobID] = k
	}
	return f
}

func (f *follower) Receive(c actor.Context) {
	defer keepStack()
	switch m := c.Message().(type) {
	case *actor.Started:
		f.timer = scheduler.NewTimerScheduler(c.ActorSystem().Root)
		f.apply(c, report.LinkBegun{})
		if f.link.Away {
			f.showAll(c)
		}
	case connect:
		f.connect(c)
	case quiet:
		f.apply(c, report.LinkQuiet{})
	case came:
		if m.run == f.run {
			f.take(c, m.event)
		}
	case broke:
		if m.run == f.run {
			f.running = nil
			f.apply(c, report.LinkLost{Reason: reasonOf(m.err)})
		}
	case messages.UnwatchJob:
		delete(f.jobs, m.ID)
		c.Send(f.aggregator, messages.Unwatched{Node: f.node.Name, ID: m.ID})
		c.Respond(messages.Answer{})
	case *actor.Stopping:
		f.running.halt()
	}
}

// apply lets the link go on by an event, and carries out what follows.
func (f *follower) apply(c actor.Context, ev report.LinkEvent) {
	now := f.now()
	away := f.link.Away
	var actions []report.LinkAction
	f.link, actions = f.link.Apply(ev, now)
	for _, a := range actions {
		switch a := a.(type) {
		case report.ConnectAt:
			f.timer.SendOnce(max(time.Millisecond, a.At.Sub(now)), c.Self(), connect{})
		case report.QuietAt:
			f.timer.SendOnce(max(time.Millisecond, a.At.Sub(now)), c.Self(), quiet{})
		case report.ShowNode:
			f.showAll(c)
		}
	}
	f.tell(away)
}

// showAll shows the jobs that have not ended. Those of before the restart wait for what the node says of them, if it is
// heard.
func (f *follower) showAll(c actor.Context) {
	for _, k := range f.jobs {
		if !k.report.Status.Terminal() && (!k.before || !f.link.Open) {
			f.show(c, k)
		}
	}
}

// tell keeps how the node is, for those who ask, and logs that it went or came back.
func (f *follower) tell(away bool) {
	now := f.now()
	switch l := f.link; {
	case l.Away:
		f.node.seen(NodeUnreachable, l.HeardAt, now, l.Reason)
		if !away {
			f.log.Warn("a node is unreachable; its jobs go on there", "node", f.node.Name, "reason", l.Reason)
		}
	case l.Open:
		f.node.seen(NodeConnected, l.HeardAt, now, "")
		if away {
			f.log.Info("a node is reachable again", "node", f.node.Name)
		}
	default:
		f.node.seen(f.node.health.Load().State, l.HeardAt, now, l.Reason)
	}
}

func (f *follower) connect(c actor.Context) {
	if f.running != nil {
		return
	}
	f.run++
	run, last, self, root := f.run, f.last, c.Self(), c.ActorSystem().Root
	f.running = begin(c, f.life, func(ctx context.Context) any {
		err := f.node.Peer.Follow(ctx, last, func(ev PeerEvent) {
			root.Send(self, came{run: run, event: ev})
		})
		if err == nil {
			err = errors.New("the stream has ended")
		}
		return broke{run: run, err: err}
	}, func(err error) any { return broke{run: run, err: err} })
}

// take takes what the node has sent. A report is new if its version is higher. All jobs together are how the node is
// now, whatever the versions: its journal may be an older one.
func (f *follower) take(c actor.Context, ev PeerEvent) {
	now := f.now()
	f.apply(c, report.LinkHeard{})
	if ev.ID != "" {
		f.last = ev.ID
	}
	listed := map[job.ID]bool{}
	for _, r := range ev.Jobs {
		if r.Node != "" {
			continue // of a node that this one watches
		}
		listed[r.JobID] = true
		k := f.jobs[r.JobID]
		if k != nil && !ev.Snapshot && !k.version.Less(r.Version()) {
			continue
		}
		if k != nil && k.report.CreatedAt.Equal(r.CreatedAt) { // a node that was killed knows a little less
			r.OverallPercent = max(r.OverallPercent, k.report.OverallPercent)
		}
		f.jobs[r.JobID] = &followed{report: r, version: r.Version(), seen: now}
		f.show(c, f.jobs[r.JobID])
	}
	for _, d := range ev.Deleted {
		if k := f.jobs[d.JobID]; k == nil || k.version.Less(d.Version()) {
			f.drop(c, d.JobID) // else another job has got the id since
		}
	}
	if !ev.Snapshot {
		return
	}
	for id, k := range f.jobs {
		switch {
		case listed[id]:
		case k.report.Status.Terminal():
			f.drop(c, id) // it was deleted at its node
		case k.lost == nil:
			k.lost = &report.Sight{
				Status: job.Lost, Since: now, SeenAt: k.seen,
				Reason: "the node does not know the job any more, and it was not seen at its end",
			}
			f.show(c, k)
		}
	}
}

func (f *follower) drop(c actor.Context, id job.ID) {
	if f.jobs[id] != nil {
		delete(f.jobs, id)
		c.Send(f.aggregator, messages.Unwatched{Node: f.node.Name, ID: id})
	}
}

func (f *follower) show(c actor.Context, k *followed) {
	see := f.link.Sight(k.seen)
	if k.lost != nil {
		see = *k.lost
	}
	c.Send(f.aggregator, messages.Watched{
		Report: k.report.At(f.node.Name, report.OurNode, k.version.String(), see, f.now()),
	})
}
