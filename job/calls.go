package job

import (
	"context"
	"sync"
	"time"
)

// Calls are the calls to other programs that one step or one attempt has under way, so that a peer that does not answer
// shows long before a call ends by its deadline. The zero value is ready. Its methods may be called from any goroutine.
type Calls struct {
	mu   sync.Mutex
	open map[*Call]struct{}
	last map[Peer]time.Time // when a peer was heard last, if its newest call failed
}

// Call is one call that is under way. A nil Call notes nothing.
type Call struct {
	of    *Calls
	peer  Peer
	heard time.Time // its begin, or a later sign of life; under of.mu
}

type callsKey struct{}

// In is a context with which calls are noted.
func (c *Calls) In(ctx context.Context) context.Context { return context.WithValue(ctx, callsKey{}, c) }

// Calling notes a call to a peer, until Done. It is nil if ctx is not of Calls.In.
func Calling(ctx context.Context, peer Peer) *Call {
	of, ok := ctx.Value(callsKey{}).(*Calls)
	if !ok {
		return nil
	}
	c := &Call{of: of, peer: peer, heard: time.Now()}
	of.mu.Lock()
	defer of.mu.Unlock()
	if of.open == nil {
		of.open = map[*Call]struct{}{}
	}
	of.open[c] = struct{}{}
	return c
}

// Heard says that the peer has shown a sign of life.
func (c *Call) Heard() {
	if c == nil {
		return
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.heard = time.Now()
}

// Done ends the call. It returns err.
func (c *Call) Done(err error) error {
	if c == nil {
		return err
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	delete(c.of.open, c)
	delete(c.of.last, c.peer)
	if err != nil {
		if c.of.last == nil {
			c.of.last = map[Peer]time.Time{}
		}
		c.of.last[c.peer] = c.heard
	}
	return err
}

// Silent is the peer that was heard longest ago of those with a call under way, and when that was. ok is false if no
// call is under way.
func (c *Calls) Silent() (peer Peer, since time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for o := range c.open {
		if !ok || o.heard.Before(since) {
			peer, since, ok = o.peer, o.heard, true
		}
	}
	return peer, since, ok
}

// Failed is when a peer was heard last, if the newest call to it failed; else zero.
func (c *Calls) Failed(peer Peer) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last[peer]
}
