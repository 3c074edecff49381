package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"

	"github.com/vmferry/vmferry/job"
)

// result is one run: a job that has ended, or was refused.
type result struct {
	seed      uint64
	verify    job.VerifyMode
	kinds     []kind
	completed bool
	hit       bool // bytes of its targets were changed by others
	verdicts  []verdict
	reason    string // why it did not complete
}

// has says whether a comparison of the run came to that class.
func (r result) has(c class) bool {
	return slices.ContainsFunc(r.verdicts, func(v verdict) bool { return v.class == c })
}

// score counts runs. Several goroutines may use it.
type score struct {
	seeds int

	mu      sync.Mutex
	results []result
	missing []kind // kinds that are not tried here
	stuck   []string
	acts    map[actName]int
}

func newScore(seeds int) *score { return &score{seeds: seeds, acts: map[actName]int{}} }

// What a whole run of enoughSeeds seeds must have; fewer seeds must have their share, rounded down.
const (
	enoughSeeds   = 200
	leastOfEach   = 20 // completed runs of each kind and each way to verify
	leastHit      = 50 // runs in which bytes of a target were changed
	mostUndecided = 10 // in a hundred runs
)

func (s *score) without(k kind) { s.missing = append(s.missing, k) }

func (s *score) add(r result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results = append(s.results, r)
}

func (s *score) acted(name actName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acts[name]++
}

// stall notes a job that did not end, nor let itself be cancelled.
func (s *score) stall(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stuck = append(s.stuck, text)
}

// count is the number of runs that f chooses.
func (s *score) count(f func(result) bool) (n int) {
	for _, r := range s.results {
		if f(r) {
			n++
		}
	}
	return n
}

func completed(r result) bool { return r.completed }

func wrongWith(modes ...job.VerifyMode) func(result) bool {
	return func(r result) bool { return r.has(wrong) && slices.Contains(modes, r.verify) }
}

// broken lists what is wrong with the product, and what the rehearsal did not reach.
func (s *score) broken() (all []string) {
	check := func(bad bool, format string, args ...any) {
		if bad {
			all = append(all, "BROKEN: "+fmt.Sprintf(format, args...))
		}
	}
	runs, done := len(s.results), s.count(completed)
	if n := s.count(wrongWith(job.VerifyFull)); n > 0 {
		check(true, "%d runs with verify full are completed over bytes that differ", n)
	}
	if n := s.count(wrongWith(job.VerifyNone, job.VerifySample)); n > 0 {
		check(true, "%d runs with verify none or sample are completed over bytes that differ and could be seen", n)
	}
	for _, text := range s.stuck {
		check(true, "%s", text)
	}
	check(3*done < runs, "%d of %d runs completed, a third is needed", done, runs)
	share := func(n int) int { return n * min(s.seeds, enoughSeeds) / enoughSeeds }
	for _, k := range kinds() {
		n := s.count(func(r result) bool { return r.completed && slices.Contains(r.kinds, k) })
		check(n < share(leastOfEach) && !slices.Contains(s.missing, k),
			"%d runs to a %s completed, %d are needed", n, k, share(leastOfEach))
	}
	for _, v := range verifyModes() {
		n := s.count(func(r result) bool { return r.completed && r.verify == v })
		check(n < share(leastOfEach), "%d runs with verify %s completed, %d are needed", n, v, share(leastOfEach))
	}
	hits := s.count(func(r result) bool { return r.hit })
	check(hits < share(leastHit), "in %d runs others changed bytes of a target, %d are needed", hits, share(leastHit))
	n := s.count(func(r result) bool { return r.has(undecided) })
	check(100*n > mostUndecided*max(runs, 100), "%d of %d runs are undecided, %d %% are allowed", n, runs,
		mostUndecided)
	return all
}

func (s *score) failed() bool { return len(s.broken()) > 0 }

// write writes the tables for people.
func (s *score) write(out io.Writer) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "VERIFY\tRUNS\tCOMPLETED\tHIT\tAFTERWARDS\tUNDECIDED\tNONE\tSAMPLE\tEXPORT\tDURING\tWRONG\t\n")
	for _, v := range verifyModes() {
		ours := func(f func(result) bool) int {
			return s.count(func(r result) bool { return r.verify == v && f(r) })
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d", v, ours(func(result) bool { return true }), ours(completed),
			ours(func(r result) bool { return r.hit }))
		for _, c := range []class{
			afterwards, undecided, unseenNone, unseenSample, unseenExport, unseenDuring, wrong,
		} {
			fmt.Fprintf(w, "\t%d", ours(func(r result) bool { return r.has(c) }))
		}
		fmt.Fprint(w, "\t\n")
	}
	_ = w.Flush() // fails only if nothing can be written to out
	fmt.Fprintln(out, "\nActs that were done:")
	for _, d := range deeds() {
		fmt.Fprintf(out, "  %4d  %s\n", s.acts[d.name], d.name)
	}
	s.writeReasons(out)
	s.writeWrong(out)
	for _, text := range s.broken() {
		fmt.Fprintln(out, text)
	}
}

// writeWrong writes each run that completed a round over bytes that differ and could be seen.
func (s *score) writeWrong(out io.Writer) {
	for _, r := range s.results {
		for _, v := range r.verdicts {
			if v.class == wrong {
				fmt.Fprintf(out, "UNEQUAL: seed %d, verify %s: %s\n", r.seed, r.verify, v.why)
				break // what is wrong once stays so in later rounds
			}
		}
	}
}

// writeReasons writes why runs did not complete, the most frequent reason first.
func (s *score) writeReasons(out io.Writer) {
	times := map[string]int{}
	var all []string
	for _, r := range s.results {
		if r.completed {
			continue
		}
		if times[r.reason] == 0 {
			all = append(all, r.reason)
		}
		times[r.reason]++
	}
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(times[b], times[a]), cmp.Compare(a, b))
	})
	fmt.Fprintln(out, "Runs that did not complete:")
	for _, text := range all {
		fmt.Fprintf(out, "  %4d  %s\n", times[text], text)
	}
}

// last writes the line for programs.
func (s *score) last(out io.Writer) {
	of := func(c class) int { return s.count(func(r result) bool { return r.has(c) }) }
	done := s.count(completed)
	fmt.Fprintf(out, "tamper: runs=%d completed=%d refused_or_failed=%d unequal_full=%d unseen_during_round=%d "+
		"unseen_export=%d unseen_sample=%d unseen_none=%d\n", len(s.results), done, len(s.results)-done,
		s.count(wrongWith(job.VerifyFull)), of(unseenDuring), of(unseenExport), of(unseenSample), of(unseenNone))
}
