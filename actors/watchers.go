package actors

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// WatchedNode is a node whose jobs an OMA shows. One of Peer and Old is set.
type WatchedNode struct {
	Name string
	Peer Peer     // one of ours
	Old  OldPeer  // an older VMA
	Jobs []job.ID // of an older VMA: watched from the start on
}

// NodeHealth says how the Watcher of a node sees it.
type NodeHealth struct {
	Name   string
	Kind   report.NodeKind
	State  NodeState
	Since  time.Time // of the state
	SeenAt time.Time // when it was heard last; zero for never
	Reason string    // why it is unreachable; "" if it is not
}

// NodeState is how a node is seen.
type NodeState string

// The states.
const (
	NodeUnknown     NodeState = "unknown" // not heard yet; an older VMA is heard only while it is asked for a job
	NodeConnected   NodeState = "connected"
	NodeUnreachable NodeState = "unreachable"
)

// watchers is the actor Watchers, the parent of one Watcher for each node. A Watcher that panics begins anew: it reads
// everything from its node again.
type watchers struct {
	*deps
	aggregator *actor.PID
	nodes      []*watchedNode
	reports    map[job.ID]report.Report // the last ones of watched jobs before the restart
}

// watchedNode is one node and its Watcher.
type watchedNode struct {
	WatchedNode
	pid    *actor.PID
	asked  map[job.ID]bool // jobs of an older VMA; the actor watchers owns it
	health *atomic.Pointer[NodeHealth]
	starts int
}

// respawn begins the Watcher of a node that has panicked anew.
type respawn struct {
	noDeadLetterLog
	node *watchedNode
}

const respawnAfter = time.Second

func watchersProps(d *deps, aggregator *actor.PID, nodes []*watchedNode, last []report.Report) *actor.Props {
	w := &watchers{deps: d, aggregator: aggregator, nodes: nodes, reports: map[job.ID]report.Report{}}
	for _, r := range last {
		if r.Node != "" {
			w.reports[r.JobID] = r
		}
	}
	return rootProps(d, watchersKind, w)
}

func watchedNodes(nodes []WatchedNode, now time.Time) []*watchedNode {
	var out []*watchedNode
	for _, n := range nodes {
		w := &watchedNode{WatchedNode: n, asked: map[job.ID]bool{}, health: &atomic.Pointer[NodeHealth]{}}
		w.health.Store(&NodeHealth{Name: n.Name, Kind: w.kind(), State: NodeUnknown, Since: now})
		out = append(out, w)
	}
	return out
}

func (n *watchedNode) kind() report.NodeKind {
	if n.Peer == nil {
		return report.LegacyNode
	}
	return report.OurNode
}

// seen takes note of how the node is.
func (n *watchedNode) seen(state NodeState, heard, now time.Time, reason string) {
	h := *n.health.Load()
	if h.State != state {
		h.State, h.Since = state, now
	}
	h.SeenAt, h.Reason = heard, reason
	n.health.Store(&h)
}

func (w *watchers) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		w.orphans(c)
		for _, n := range w.nodes {
			w.spawn(c, n)
		}
	case messages.WatchJob:
		w.pass(c, m.Node, m.ID, true)
	case messages.UnwatchJob:
		w.pass(c, m.Node, m.ID, false)
	case *actor.Terminated:
		for _, n := range w.nodes {
			if n.pid != nil && n.pid.Equal(m.Who) {
				n.pid = nil
				scheduler.NewTimerScheduler(c.ActorSystem().Root).SendOnce(respawnAfter, c.Self(), respawn{node: n})
			}
		}
	case respawn:
		w.spawn(c, m.node)
	}
}

// orphans shows the jobs of nodes that are not configured any more.
func (w *watchers) orphans(c actor.Context) {
	for _, r := range w.reports {
		if slices.ContainsFunc(w.nodes, func(n *watchedNode) bool { return n.Name == r.Node }) {
			continue
		}
		before, was := r.Sight(), r.AsItWas()
		see := report.Sight{
			Status: job.Lost, Since: w.now(), SeenAt: before.SeenAt,
			Reason: "the node " + r.Node + " is not configured any more",
		}
		if before.Status == job.Lost && before.Reason == see.Reason {
			see.Since = before.Since
		}
		c.Send(w.aggregator, messages.Watched{
			Report: was.At(r.Node, was.Watched.Kind, was.Watched.Version, see, w.now()),
		})
	}
}

func (w *watchers) spawn(c actor.Context, n *watchedNode) {
	var mine []report.Report
	for _, r := range w.reports {
		if r.Node == n.Name {
			mine = append(mine, r)
		}
	}
	slices.SortFunc(mine, func(a, b report.Report) int { return cmp.Compare(a.JobID, b.JobID) })
	var made actor.Actor
	if n.Peer != nil {
		made = newFollower(w.deps, n, w.aggregator, mine)
	} else {
		if n.starts == 0 {
			for _, r := range mine {
				n.asked[r.JobID] = true
			}
			for _, id := range n.Jobs {
				n.asked[id] = true
			}
		}
		made = newPoller(w.deps, n, w.aggregator, slices.Sorted(maps.Keys(n.asked)), mine)
	}
	n.starts++
	pid, err := c.SpawnNamed(actor.PropsFromProducer(func() actor.Actor { return made }), n.Name)
	if err != nil {
		w.log.Error("the watcher of a node could not begin", "node", n.Name, "err", err)
		scheduler.NewTimerScheduler(c.ActorSystem().Root).SendOnce(respawnAfter, c.Self(), respawn{node: n})
		return
	}
	n.pid = pid
}

// HandleFailure stops a Watcher that panicked. Its end makes the next one.
func (w *watchers) HandleFailure(_ *actor.ActorSystem, sup actor.Supervisor, child *actor.PID,
	_ *actor.RestartStatistics, reason, _ any,
) {
	w.panicked(watcherKind, child, reason)
	sup.StopChildren(child)
}

// pass passes a request about a job of an older VMA on.
func (w *watchers) pass(c actor.Context, node string, id job.ID, begin bool) {
	i := slices.IndexFunc(w.nodes, func(n *watchedNode) bool { return n.Name == node })
	if i < 0 && !begin {
		c.Send(w.aggregator, messages.Unwatched{Node: node, ID: id})
		delete(w.reports, id)
		c.Respond(messages.Answer{})
		return
	}
	if i < 0 {
		c.Respond(messages.Answer{Err: job.Errorf("find node", job.NotFound, "vmferry get nodes lists them",
			"there is no node %q", node)})
		return
	}
	n := w.nodes[i]
	if begin && n.Peer != nil {
		c.Respond(messages.Answer{Err: job.Errorf("watch job", job.Conflict,
			"vmferry get jobs --node "+node+" lists them", "node %s tells of its jobs by itself", node)})
		return
	}
	if n.pid == nil {
		c.Respond(messages.Answer{Err: job.Errorf("watch job", job.Unavailable, "Try again in a moment",
			"the watcher of node %s begins anew", node)})
		return
	}
	delete(w.reports, id)
	if begin {
		n.asked[id] = true
	} else {
		delete(n.asked, id)
	}
	c.RequestWithCustomSender(n.pid, c.Message(), c.Sender())
}

// anyWatched says whether a report is of another node.
func anyWatched(reports []report.Report) bool {
	return slices.ContainsFunc(reports, func(r report.Report) bool { return r.Node != "" })
}

// WatchJob begins to ask an older VMA for a job. Errors are of kind NotFound (no such node), Conflict (the node is one
// of ours, or the id is that of another job here).
func (n *Node) WatchJob(ctx context.Context, node string, id job.ID) error {
	if n.watchers == nil {
		return job.Errorf("find node", job.NotFound, "", "no node is watched here")
	}
	return n.answer(ctx, n.watchers, messages.WatchJob{Node: node, ID: id})
}

// UnwatchJob forgets a watched job at this node only.
func (n *Node) UnwatchJob(ctx context.Context, node string, id job.ID) error {
	if n.watchers == nil {
		return job.Errorf("find node", job.NotFound, "", "no node is watched here")
	}
	return n.answer(ctx, n.watchers, messages.UnwatchJob{Node: node, ID: id})
}

// Watched is how each watched node is, in the order of Deps.Nodes.
func (n *Node) Watched() []NodeHealth {
	out := make([]NodeHealth, 0, len(n.watched))
	for _, w := range n.watched {
		out = append(out, *w.health.Load())
	}
	return out
}

// reasonOf is an error in words, without what was tried.
func reasonOf(err error) string {
	for {
		e, ok := err.(*job.Error) //nolint:errorlint // the outermost one only
		if !ok || e.Err == nil {
			break
		}
		err = e.Err
	}
	return strings.ToValidUTF8(err.Error(), "")
}
