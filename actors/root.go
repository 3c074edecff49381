package actors

import (
	"fmt"
	"runtime/debug"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
)

// root wraps an actor that has no parent: Jobs, transfers, the Aggregator. Others depend on what such an actor has in
// memory, and an actor that begins anew has lost it. So a panic of one ends the node (ADR 27): it takes no further
// message, the contexts of all work end, and Node.Failed has the reason.
type root struct {
	*deps
	kind   kind
	inner  actor.Actor
	failed bool
}

// rootProps makes a root actor. Its mailbox is counted.
func rootProps(d *deps, k kind, inner actor.Actor) *actor.Props {
	box := actor.Unbounded()()
	d.counts.mailboxes[k] = box
	return actor.PropsFromProducer(func() actor.Actor { return &root{deps: d, kind: k, inner: inner} },
		actor.WithMailbox(func() actor.Mailbox { return box }))
}

func (r *root) Receive(c actor.Context) {
	if r.failed {
		if a, ok := r.inner.(interface{ abandon() }); ok && isStopping(c.Message()) {
			a.abandon()
		}
		return
	}
	defer r.guard()
	r.inner.Receive(c)
}

func isStopping(m any) bool {
	_, ok := m.(*actor.Stopping)
	return ok
}

// HandleFailure makes the actor the supervisor of its children: its inner actor decides, if it has this method. It is
// called by protoactor in this actor's mailbox. When this actor has failed, a child that panics is stopped.
func (r *root) HandleFailure(sys *actor.ActorSystem, sup actor.Supervisor, child *actor.PID,
	stats *actor.RestartStatistics, reason, message any,
) {
	defer r.guard()
	if s, ok := r.inner.(actor.SupervisorStrategy); ok && !r.failed {
		s.HandleFailure(sys, sup, child, stats, reason, message)
		return
	}
	sup.StopChildren(child)
}

// guard ends the node after a panic.
func (r *root) guard() {
	p := recover()
	if p == nil {
		return
	}
	r.failed = true
	r.counts.panics[r.kind].Add(1)
	r.log.Error("an actor panicked; the daemon ends, and goes on from the journal when it is started again",
		"actor", string(r.kind), "reason", fmt.Sprint(p), "stack", string(debug.Stack()))
	r.fail(job.Errorf("", job.Internal, reportFault, "the actor %s panicked: %v", r.kind, p))
}

// crash is the reason of a panic of an actor, with its stack.
type crash struct {
	reason any
	stack  []byte
}

func (c crash) String() string { return fmt.Sprint(c.reason) }

// keepStack is deferred by Receive. It passes a panic on with its stack: the actor that supervises this one logs it.
func keepStack() {
	if p := recover(); p != nil {
		panic(crash{p, debug.Stack()})
	}
}

// panicked counts and logs the panic of a child.
func (d *deps) panicked(k kind, child *actor.PID, reason any) {
	d.counts.panics[k].Add(1)
	stack := ""
	if c, ok := reason.(crash); ok {
		stack = string(c.stack)
	}
	d.log.Error("an actor panicked", "kind", string(k), "actor", child.Id, "reason", fmt.Sprint(reason), "stack", stack)
}
