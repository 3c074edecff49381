package main

import (
	"strings"
	"testing"

	"github.com/vmferry/vmferry/job"
)

// full has what a whole run of 200 seeds must have.
func full() *score {
	s := newScore(200)
	for i := range 90 {
		s.add(result{
			verify: verifyModes()[i%3], kinds: []kind{kinds()[i/3%3]}, completed: true, hit: i < 60,
			verdicts: []verdict{{class: equal}},
		})
	}
	return s
}

func TestAScoreWithAllItNeedsIsGood(t *testing.T) {
	if b := full().broken(); len(b) > 0 {
		t.Error(b)
	}
}

func TestWhatIsWrongOrMissingFails(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*score)
		want   string
	}{
		"unequal, full": {func(s *score) {
			s.add(result{
				verify: job.VerifyFull, completed: true,
				verdicts: []verdict{{class: equal}, {class: wrong}, {class: equal}},
			})
		}, "1 runs with verify full are completed over bytes that differ"},
		"unequal before it failed": {func(s *score) {
			s.add(result{verify: job.VerifyFull, verdicts: []verdict{{class: wrong}}})
		}, "1 runs with verify full"},
		"unequal, none": {func(s *score) {
			s.add(result{verify: job.VerifyNone, completed: true, verdicts: []verdict{{class: wrong}}})
		}, "verify none or sample"},
		"few completed": {func(s *score) {
			for range 181 {
				s.add(result{verify: job.VerifyFull})
			}
		}, "90 of 271 runs completed"},
		"few of a kind": {func(s *score) {
			for i := range s.results {
				s.results[i].kinds = []kind{onFile}
			}
		}, "0 runs to a device completed, 20 are needed"},
		"few of a way to verify": {func(s *score) {
			for i := range s.results {
				s.results[i].verify = job.VerifyNone
			}
		}, "0 runs with verify sample completed, 20 are needed"},
		"few hits": {func(s *score) {
			for i := range s.results {
				s.results[i].hit = i < 49
			}
		}, "in 49 runs others changed bytes of a target, 50 are needed"},
		"much undecided": {func(s *score) {
			for range 11 {
				s.add(result{verify: job.VerifyFull, completed: true, verdicts: []verdict{{class: undecided}}})
			}
		}, "11 of 101 runs are undecided"},
		"stuck": {func(s *score) { s.stall("seed 3: a job is running for ever") }, "for ever"},
	} {
		s := full()
		tc.change(s)
		if got := strings.Join(s.broken(), "\n"); !strings.Contains(got, tc.want) || !s.failed() {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

func TestTenSeedsNeedTheirShare(t *testing.T) {
	s := newScore(10)
	for i := range 9 {
		s.add(result{
			verify: verifyModes()[i%3], kinds: []kind{kinds()[i/3]}, completed: true, hit: i < 2,
			verdicts: []verdict{{class: unseenDuring}},
		})
	}
	if b := s.broken(); len(b) > 0 {
		t.Error(b)
	}
	s.results[8].kinds = nil
	s.results[7].kinds = nil
	s.results[6].kinds = nil
	if s.without(onExport); s.failed() {
		t.Error("a kind that can't be tried here is missed:", s.broken())
	}
}

func TestTheLastLineCountsRuns(t *testing.T) {
	s := newScore(1)
	s.add(result{
		verify: job.VerifyFull, completed: true,
		verdicts: []verdict{{class: unseenDuring}, {class: unseenDuring}, {class: unseenExport}},
	})
	s.add(result{verify: job.VerifyFull, verdicts: []verdict{{class: wrong}}})
	s.add(result{verify: job.VerifyNone, completed: true, verdicts: []verdict{{class: unseenNone}, {class: wrong}}})
	s.add(result{verify: job.VerifySample, completed: true, verdicts: []verdict{{class: unseenSample}}})
	var out strings.Builder
	s.last(&out)
	const want = "tamper: runs=4 completed=3 refused_or_failed=1 unequal_full=1 unseen_during_round=1 " +
		"unseen_export=1 unseen_sample=1 unseen_none=1\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
