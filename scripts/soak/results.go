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
	who      string        // a victim
	measured bool          // the job copied at that moment
	again    int64         // bytes sent again
	back     time.Duration // from the kill to the next byte copied
	end      time.Duration // from the signal to the end of the daemon
}

// results are what all kills cost, and what went wrong. Several goroutines may use them, except differing and orphans.
type results struct {
	mu        sync.Mutex
	all       []killed
	problems  []string
	differing int64 // bytes of targets that are not those of their sources
	orphans   int   // leftovers
}

// What is allowed.
const (
	mostAgain  = 256 * mib        // bytes sent again after one kill
	usualAgain = 64 * mib         // likewise, the median
	mostBack   = 3 * time.Second  // the median of back, of a daemon
	mostEnd    = 10 * time.Second // from SIGTERM to the end of a daemon
)

func newResults() *results { return &results{} }

func (r *results) add(k killed) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, k)
}

func (r *results) kills() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

func (r *results) problem(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	say("PROBLEM: %s", text)
	r.problems = append(r.problems, text)
}

// of returns a value of each kill that is wanted, sorted.
func of[T int64 | time.Duration](all []killed, want func(killed) bool, value func(killed) T) (out []T) {
	for _, k := range all {
		if want(k) {
			out = append(out, value(k))
		}
	}
	slices.Sort(out)
	return out
}

// median of an even number of values is the mean of the two in the middle; of none it is 0.
func median[T int64 | time.Duration](sorted []T) T {
	if len(sorted) == 0 {
		return 0
	}
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}

// most is the largest value; of none it is 0.
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

// write writes the table for people.
func (r *results) write(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KILLED\tTIMES\tWHILE COPYING\tSENT AGAIN, MEDIAN\tMOST\tMOVES AGAIN AFTER, MEDIAN\tMOST")
	for _, who := range victims() {
		ours := func(k killed) bool { return k.who == who }
		moving := func(k killed) bool { return k.who == who && k.measured }
		bytes, times := of(r.all, moving, again), of(r.all, moving, back)
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%v\t%v\n", who, len(of(r.all, ours, again)), len(bytes),
			job.FormatSize(median(bytes)), job.FormatSize(most(bytes)),
			median(times).Round(time.Millisecond), most(times).Round(time.Millisecond))
	}
	_ = w.Flush() // fails only if nothing can be written to out
	stops := of(r.all, func(k killed) bool { return k.who == ofStop }, end)
	fmt.Fprintf(out,
		"\nSent again is bytes_resent of the job's reports. The daemon ended within %v of SIGTERM.\n",
		most(stops).Round(time.Millisecond))
	for _, p := range r.verdicts() {
		fmt.Fprintln(out, p)
	}
}

// verdicts lists the promises that were broken.
func (r *results) verdicts() (broken []string) {
	check := func(bad bool, format string, args ...any) {
		if bad {
			broken = append(broken, "BROKEN: "+fmt.Sprintf(format, args...))
		}
	}
	for _, p := range r.problems {
		check(true, "%s", p)
	}
	bytes := of(r.all, measured, again)
	check(r.differing > 0, "%d bytes differ", r.differing)
	check(r.orphans > 0, "%d things were left over", r.orphans)
	check(most(bytes) > mostAgain, "%s were sent again after one kill, %s are allowed", job.FormatSize(most(bytes)),
		job.FormatSize(mostAgain))
	check(median(bytes) > usualAgain, "the median of what was sent again is %s, %s is allowed",
		job.FormatSize(median(bytes)), job.FormatSize(usualAgain))
	starts := of(r.all, func(k killed) bool { return k.measured && (k.who == ofDaemon || k.who == ofStop) }, back)
	check(median(starts) > mostBack, "a daemon needs %v until bytes move again, %v are allowed", median(starts),
		mostBack)
	stops := of(r.all, func(k killed) bool { return k.who == ofStop }, end)
	check(most(stops) > mostEnd, "a daemon needed %v to end, %v are allowed", most(stops), mostEnd)
	return broken
}

func (r *results) failed() bool { return len(r.verdicts()) > 0 }

// last writes the line for programs.
func (r *results) last(out io.Writer) {
	bytes := of(r.all, measured, again)
	fmt.Fprintf(out, "soak: kills=%d differing_bytes=%d recopied_median=%d recopied_max=%d orphans=%d\n", len(r.all),
		r.differing, median(bytes), most(bytes), r.orphans)
}
