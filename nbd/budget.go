package nbd

import "sync"

// Budget is how many bytes copies that share it may have asked their sources for at the same time. It keeps the buffers
// of a host that serves many disks from running full. Its methods may be called from any goroutine, the limit may be
// changed while copies run.
type Budget struct {
	mu      sync.Mutex
	limit   int64
	used    int64
	waiting map[*wake]struct{}
}

// NewBudget makes one of that many bytes; 0 is for no limit.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit, waiting: map[*wake]struct{}{}} }

// SetLimit changes the limit. What is in flight beyond a smaller one comes back by itself.
func (b *Budget) SetLimit(limit int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = limit
	b.wakeAll()
}

// Used is how many bytes are in flight now.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// take claims n bytes; if there are not so many left, w is set when there may be. One request always is in order.
func (b *Budget) take(n int64, w *wake) bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit > 0 && b.used > 0 && b.used+n > b.limit {
		b.waiting[w] = struct{}{}
		return false
	}
	b.used += n
	return true
}

func (b *Budget) give(n int64) {
	if b == nil || n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.wakeAll()
}

// leave is for a thread that ends: nobody may touch its descriptor any more.
func (b *Budget) leave(w *wake) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.waiting, w)
}

func (b *Budget) wakeAll() {
	for w := range b.waiting {
		w.set()
	}
	clear(b.waiting)
}
