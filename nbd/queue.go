package nbd

// queue hands out first what came first, and uses its memory again: a thread makes a few of these entries for each
// chunk, and garbage costs it more than they do. It is not safe for concurrent use.
type queue[T any] struct {
	all  []T // from next on
	next int
}

func (q *queue[T]) len() int { return len(q.all) - q.next }

func (q *queue[T]) push(v T) {
	if len(q.all) == cap(q.all) && 2*q.next > len(q.all) { // so that each entry is moved once on average, at most
		n := copy(q.all, q.all[q.next:])
		clear(q.all[n:])
		q.all, q.next = q.all[:n], 0
	}
	q.all = append(q.all, v)
}

// first is the one that pop would return; there must be one. It is valid until the next push or pop.
func (q *queue[T]) first() *T { return &q.all[q.next] }

// last is the one that was pushed last; there must be one. It is valid until the next push or pop.
func (q *queue[T]) last() *T { return &q.all[len(q.all)-1] }

// pop takes the first one; of an empty queue it returns the zero value.
func (q *queue[T]) pop() (v T) {
	if q.len() == 0 {
		return v
	}
	v, *q.first() = *q.first(), v
	if q.next++; q.next == len(q.all) {
		q.all, q.next = q.all[:0], 0
	}
	return v
}
