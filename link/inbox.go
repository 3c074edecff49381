package link

import (
	"maps"
	"slices"
	"sync"
)

// inbox knows which messages of a peer were taken. It outlives the sessions with the peer, so what is sent again after
// a reconnect is carried out once. It is gone with this process, and begins anew when the peer is another process. Its
// methods may be called from many goroutines.
type inbox struct {
	mu          sync.Mutex
	incarnation uint64 // of the peer
	floor       uint64 // ids up to it are done
	last        uint64 // the highest id that came
	above       map[uint64]result
	no          []uint64          // refused ones up to floor, to be told so again; the newest mostPosts
	acks        map[uint64]result // to be sent
	changed     chan struct{}
}

// result is what became of a message.
type result int

const (
	taken   result = iota // by an actor, which has not finished with it
	done                  // carried out
	refused               // it never will be
)

func newInbox() *inbox { return &inbox{changed: make(chan struct{}, 1)} }

// begin is called at the start of a session. Another incarnation of the peer numbers its messages anew.
func (i *inbox) begin(incarnation uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.acks = map[uint64]result{}
	if i.incarnation != incarnation {
		i.incarnation, i.floor, i.last, i.above, i.no = incarnation, 0, 0, map[uint64]result{}, nil
	}
}

// take says whether a message is new. One that is done or refused is acknowledged again. An id that leaves others out,
// or more messages than a peer may have unacknowledged, are an errFrame.
func (i *inbox) take(id uint64) (fresh bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if id > i.last+1 {
		return false, badFrame("message %d came after message %d", id, i.last)
	}
	r, known := i.above[id]
	switch {
	case id <= i.floor && slices.Contains(i.no, id):
		i.ack(id, refused)
		return false, nil
	case id <= i.floor:
		i.ack(id, done)
		return false, nil
	case known:
		if r != taken {
			i.ack(id, r)
		}
		return false, nil
	case len(i.above) >= mostPosts+1:
		return false, badFrame("%d messages were not acknowledged", len(i.above))
	}
	i.last = id
	i.above[id] = taken
	return true, nil
}

// finish says what became of a message of an incarnation. Only the first result counts.
func (i *inbox) finish(incarnation, id uint64, r result) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if now, known := i.above[id]; i.incarnation != incarnation || !known || now != taken {
		return
	}
	i.above[id] = r
	for i.above[i.floor+1] != taken { // none, or of an actor that has not finished
		i.floor++
		if i.above[i.floor] == refused {
			i.no = append(i.no[max(0, len(i.no)-mostPosts+1):], i.floor)
		}
		delete(i.above, i.floor)
	}
	i.ack(id, r)
}

func (i *inbox) ack(id uint64, r result) {
	i.acks[id] = r
	select {
	case i.changed <- struct{}{}:
	default:
	}
}

// takeAcks returns what is to be acknowledged now.
func (i *inbox) takeAcks() (ids, no []uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(i.acks)) {
		if i.acks[id] == refused {
			no = append(no, id)
		} else {
			ids = append(ids, id)
		}
	}
	clear(i.acks)
	return ids, no
}
