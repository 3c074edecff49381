package main

import (
	"slices"
	"strings"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		of   []int64
		want int64
	}{
		{nil, 0},
		{[]int64{3}, 3},
		{[]int64{3, 5}, 4},
		{[]int64{0, 6, 70, 130}, 38},
		{[]int64{1, 2, 300}, 2},
	} {
		if got := median(tc.of); got != tc.want {
			t.Errorf("median of %v is %d, want %d", tc.of, got, tc.want)
		}
	}
}

// The median and the maximum count, however few kills there were.
func TestBytesSentAgainAreJudged(t *testing.T) {
	resultsOf := func(bytes ...int64) *results {
		r := newResults()
		for _, n := range bytes {
			r.add(killed{who: ofDaemon, measured: true, again: n})
		}
		return r
	}
	for name, tc := range map[string]struct {
		results *results
		want    string // in the verdict; none if empty
	}{
		"few":              {resultsOf(100*mib, 100*mib, 100*mib), "the median"},
		"many":             {resultsOf(slices.Repeat([]int64{100 * mib}, 10)...), "the median"},
		"many, half of it": {resultsOf(slices.Repeat([]int64{20 * mib, 100 * mib}, 10)...), ""},
		"one is too much":  {resultsOf(300 * mib), "after one kill"},
	} {
		verdicts := strings.Join(tc.results.verdicts(), "\n")
		if (tc.want == "") != (verdicts == "") || !strings.Contains(verdicts, tc.want) {
			t.Errorf("%s: %q, want %q", name, verdicts, tc.want)
		}
	}
}
