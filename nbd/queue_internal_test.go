package nbd

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestAQueueHandsOutWhatCameInItsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q queue[int]
		var want []int
		for i := range rapid.IntRange(1, 300).Draw(t, "steps") {
			if rapid.IntRange(0, 2).Draw(t, "push") > 0 {
				q.push(i + 1)
				want = append(want, i+1)
			} else if got := q.pop(); len(want) == 0 && got != 0 || len(want) > 0 && got != want[0] {
				t.Fatalf("got %d, want the first of %v", got, want)
			} else if len(want) > 0 {
				want = want[1:]
			}
			if q.len() != len(want) || len(want) > 0 && (*q.first() != want[0] || *q.last() != want[len(want)-1]) {
				t.Fatalf("it holds %v, want %v", q.all[q.next:], want)
			}
		}
		if !slices.Equal(q.all[q.next:], want) {
			t.Fatalf("it holds %v, want %v", q.all[q.next:], want)
		}
	})
}

func TestAQueueUsesItsMemoryAgain(t *testing.T) {
	var q queue[int]
	for i := range 8 {
		q.push(i)
	}
	if n := testing.AllocsPerRun(1000, func() {
		q.push(q.pop())
	}); n > 0.1 {
		t.Errorf("%v allocations for each entry", n)
	}
}
