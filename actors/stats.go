package actors

import (
	"sync/atomic"

	"github.com/asynkron/protoactor-go/actor"
)

// kind is a kind of actor.
type kind string

// The kinds. Metrics and logs show these words.
const (
	jobsKind       kind = "jobs"
	transfersKind  kind = "transfers"
	aggregatorKind kind = "aggregator"
	jobKind        kind = "job"
	diskKind       kind = "disk"
	transferKind   kind = "transfer"
	watchersKind   kind = "watchers"
	watcherKind    kind = "watcher"
)

// counts are the counters of Stats. The maps are complete before the first actor is spawned, and only read then.
type counts struct {
	mailboxes map[kind]actor.Mailbox // of the root actors
	panics    map[kind]*atomic.Int64
	revived   atomic.Int64
	down      atomic.Int64
}

func newCounts() *counts {
	c := &counts{mailboxes: map[kind]actor.Mailbox{}, panics: map[kind]*atomic.Int64{}}
	for _, k := range []kind{
		jobsKind, transfersKind, aggregatorKind, jobKind, diskKind, transferKind, watchersKind, watcherKind,
	} {
		c.panics[k] = &atomic.Int64{}
	}
	return c
}

// Stats are numbers about the actors of a node. Its maps belong to the caller.
type Stats struct {
	Mailboxes map[string]int   // messages that wait for each root actor, by its kind
	Panics    map[string]int64 // since the start, by the kind of actor: all kinds are there
	Revived   int64            // Jobs that were spawned again from the journal after a panic, since the start
	Down      int64            // Jobs that have no actor now, because it panicked too often
}

// Stats returns the numbers of this moment. It reads counters only, and may be called at any time.
func (n *Node) Stats() Stats {
	s := Stats{
		Mailboxes: map[string]int{}, Panics: map[string]int64{},
		Revived: n.counts.revived.Load(), Down: n.counts.down.Load(),
	}
	for k, m := range n.counts.mailboxes {
		s.Mailboxes[string(k)] = m.UserMessageCount()
	}
	for k, v := range n.counts.panics {
		s.Panics[string(k)] = v.Load()
	}
	return s
}
