package nbd

// queue is a first-in, first-out list that uses its memory again: a thread makes a few entries for each chunk, and
// garbage would cost more than the entries do. It is not safe for concurrent use.
type queue[T any] struct {
	all  []T // the entries are those from next on
	next int
}

func (q *queue[T]) len() int { return len(q.all) - q.next }

func (q *queue[T]) push(v T) {
	if len(q.all) == cap(q.all) && 2*q.next > len(q.all) { // so each entry is moved at most once on average
		n := copy(q.all, q.all[q.next:])
		clear(q.all[n:])
		q.all, q.next = q.all[:n], 0
	}
	q.all = append(q.all, v)
}

// first is the entry that pop would return; the queue must not be empty. It is valid until the next push or pop.
func (q *queue[T]) first() *T { return &q.all[q.next] }

// last is the entry that was pushed last; the queue must not be empty. It is valid until the next push or pop.
func (q *queue[T]) last() *T { return &q.all[len(q.all)-1] }

// pop removes and returns the first entry; of an empty queue it returns the zero value.
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
