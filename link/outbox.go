package link

import (
	"sync"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/link/wire"
)

// outbox has what a peer is to get. It outlives the sessions with the peer, and is gone with this process. Its methods
// may be called from many goroutines.
type outbox struct {
	peer string

	mu      sync.Mutex
	lastID  uint64
	posts   []*wire.Post // not acknowledged; ids grow
	bytes   int          // of posts
	slots   map[string]*slot
	lastSeq uint64
	changed chan struct{} // closed at the next change
}

// slot is the newest message of a key.
type slot struct {
	seq     uint64 // grows with each message of any key
	message *wire.Message
}

func newOutbox(peer string) *outbox {
	return &outbox{peer: peer, slots: map[string]*slot{}, changed: make(chan struct{})}
}

// mark is how far a session has sent an outbox. A new session begins with the zero mark, so it sends again what was not
// acknowledged, and the newest message of each key.
type mark struct{ id, seq uint64 }

func (o *outbox) full() error {
	return job.Errorf("send to "+o.peer, job.Unavailable, "Try again when vmferry get nodes shows the link as up",
		"%d messages of %s wait for node %s", len(o.posts), job.FormatSize(int64(o.bytes)), o.peer)
}

// post adds a message that is sent until it is acknowledged. Errors are of kind Unavailable.
func (o *outbox) post(m *wire.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.posts) >= mostPosts || o.bytes+len(m.Data) > mostPostBytes {
		return o.full()
	}
	o.lastID++
	o.posts = append(o.posts, &wire.Post{Id: o.lastID, Message: m})
	o.bytes += len(m.Data)
	o.wake()
	return nil
}

// latest replaces the message of a key. Errors are of kind Unavailable.
func (o *outbox) latest(key string, m *wire.Message) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.slots[key] == nil && len(o.slots) >= mostKeys {
		return job.Errorf("send to "+o.peer, job.Unavailable, "Look whether node "+o.peer+" is up",
			"there are %d keys for node %s", len(o.slots), o.peer)
	}
	o.lastSeq++
	o.slots[key] = &slot{o.lastSeq, m}
	o.wake()
	return nil
}

// forget drops the message of a key: it is not sent again after a reconnect.
func (o *outbox) forget(key string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.slots, key)
}

// acked drops messages, and returns those of them that were there.
func (o *outbox) acked(ids []uint64) (gone []*wire.Post) {
	o.mu.Lock()
	defer o.mu.Unlock()
	set := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		set[id] = true
	}
	kept := o.posts[:0:0]
	for _, p := range o.posts {
		if set[p.Id] {
			gone = append(gone, p)
			o.bytes -= len(p.Message.Data)
			continue
		}
		kept = append(kept, p)
	}
	o.posts = kept
	return gone
}

// next is the next frame of a session, and its mark after it; nil if there is none.
func (o *outbox) next(at mark) (*wire.Frame, mark) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.posts {
		if p.Id > at.id {
			at.id = p.Id
			return &wire.Frame{Body: &wire.Frame_Post{Post: p}}, at
		}
	}
	var key string
	var oldest *slot
	for k, s := range o.slots {
		if s.seq > at.seq && (oldest == nil || s.seq < oldest.seq) {
			key, oldest = k, s
		}
	}
	if oldest == nil {
		return nil, at
	}
	at.seq = oldest.seq
	return &wire.Frame{Body: &wire.Frame_Latest{Latest: &wire.Latest{Key: key, Message: oldest.message}}}, at
}

// wait returns a channel that is closed at the next change. Asked for before next, it loses none.
func (o *outbox) wait() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changed
}

func (o *outbox) wake() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// waiting is how many messages wait to be acknowledged.
func (o *outbox) waiting() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.posts)
}
