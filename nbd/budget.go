package nbd

import "sync"

// Budget limits the bytes in flight at the sources of all copies that share it. It keeps the buffers of a host that
// serves many disks from running full. Its methods may be called from any goroutine, also while copies run.
type Budget struct {
	mu      sync.Mutex
	limit   int64
	used    int64
	waiting map[*wake]struct{} // of threads that wait for bytes
}

// NewBudget returns a budget of limit bytes; 0 for no limit.
func NewBudget(limit int64) *Budget { return &Budget{limit: limit, waiting: map[*wake]struct{}{}} }

// SetLimit changes the limit. With a smaller one, requests in flight beyond it are not cancelled.
func (b *Budget) SetLimit(limit int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = limit
	b.wakeAll()
}

// Used returns the bytes in flight now.
func (b *Budget) Used() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}

// take claims n bytes. If fewer are left, it returns false, and sets w when there may be enough. One request is always
// allowed.
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

// give returns n bytes and wakes the threads that wait for bytes.
func (b *Budget) give(n int64) {
	if b == nil || n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used -= n
	b.wakeAll()
}

// leave is called by a thread that ends: after it, the budget does not set w any more.
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
