package main

import (
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/vmferry/vmferry/job"
)

// killed is what one kill cost.
type killed struct {
	who      string
	measured bool // while bytes moved
	again    int64
	back     time.Duration // until the first byte after it
	end      time.Duration // until the daemon had ended
}

// tally is what came of all. It is safe for several goroutines but for differing and orphans.
type tally struct {
	mu        sync.Mutex
	all       []killed
	problems  []string
	differing int64
	orphans   int
}

// What is allowed.
const (
	mostAgain  = 256 * mib
	usualAgain = 64 * mib // as the median
	mostBack   = 3 * time.Second
	mostEnd    = 10 * time.Second
)

func newTally() *tally { return &tally{} }

func (t *tally) add(k killed) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, k)
}

func (t *tally) kills() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.all)
}

func (t *tally) problem(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	say("PROBLEM: %s", text)
	t.problems = append(t.problems, text)
}

// of is the sorted values of those kills.
func of[T int64 | time.Duration](all []killed, want func(killed) bool, value func(killed) T) (out []T) {
	for _, k := range all {
		if want(k) {
			out = append(out, value(k))
		}
	}
	slices.Sort(out)
	return out
}

// median is the mean of the two in the middle if there are two.
func median[T int64 | time.Duration](sorted []T) T {
	if len(sorted) == 0 {
		return 0
	}
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

func most[T any](sorted []T) (m T) {
	if len(sorted) == 0 {
		return m
	}
	return sorted[len(sorted)-1]
}

func again(k killed) int64        { return k.again }
func back(k killed) time.Duration { return k.back }
func end(k killed) time.Duration  { return k.end }
func measured(k killed) bool      { return k.measured }

// write writes the table.
func (t *tally) write(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KILLED\tTIMES\tWHILE COPYING\tSENT AGAIN, MEDIAN\tMOST\tMOVES AGAIN AFTER, MEDIAN\tMOST")
	for _, who := range victims() {
		ours := func(k killed) bool { return k.who == who }
		moving := func(k killed) bool { return k.who == who && k.measured }
		bytes, times := of(t.all, moving, again), of(t.all, moving, back)
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%v\t%v\n", who, len(of(t.all, ours, again)), len(bytes),
			job.FormatSize(median(bytes)), job.FormatSize(most(bytes)),
			median(times).Round(time.Millisecond), most(times).Round(time.Millisecond))
	}
	_ = w.Flush() // a terminal that is gone needs no table
	stops := of(t.all, func(k killed) bool { return k.who == ofStop }, end)
	fmt.Fprintf(out,
		"\nSent again is what the job's reports tell (bytes_resent). The daemon ended within %v of SIGTERM.\n",
		most(stops).Round(time.Millisecond))
	for _, p := range t.verdicts() {
		fmt.Fprintln(out, p)
	}
}

// verdicts are the promises that were broken.
func (t *tally) verdicts() (broken []string) {
	check := func(bad bool, format string, args ...any) {
		if bad {
			broken = append(broken, "BROKEN: "+fmt.Sprintf(format, args...))
		}
	}
	for _, p := range t.problems {
		check(true, "%s", p)
	}
	bytes := of(t.all, measured, again)
	check(t.differing > 0, "%d bytes differ", t.differing)
	check(t.orphans > 0, "%d things were left behind", t.orphans)
	check(most(bytes) > mostAgain, "%s were sent again after one kill, %s are allowed", job.FormatSize(most(bytes)),
		job.FormatSize(mostAgain))
	check(median(bytes) > usualAgain, "the median of what was sent again is %s, %s is allowed",
		job.FormatSize(median(bytes)), job.FormatSize(usualAgain))
	starts := of(t.all, func(k killed) bool { return k.measured && (k.who == ofDaemon || k.who == ofStop) }, back)
	check(median(starts) > mostBack, "a daemon needs %v until bytes move again, %v are allowed", median(starts),
		mostBack)
	stops := of(t.all, func(k killed) bool { return k.who == ofStop }, end)
	check(most(stops) > mostEnd, "a daemon needed %v to end, %v are allowed", most(stops), mostEnd)
	return broken
}

func (t *tally) failed() bool { return len(t.verdicts()) > 0 }

// last is the line for programs.
func (t *tally) last(out io.Writer) {
	bytes := of(t.all, measured, again)
	fmt.Fprintf(out, "soak: kills=%d differing_bytes=%d recopied_median=%d recopied_max=%d orphans=%d\n", len(t.all),
		t.differing, median(bytes), most(bytes), t.orphans)
}
