package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

// at is a moment of the little histories of these tests, in seconds.
func at(s int) time.Time { return time.Unix(1000, 0).Add(time.Duration(s) * time.Second) }

const size = 1024

// history is a full round and an incremental one after it, which moves the bytes from 256 to 512.
//
//	 0..10  round 1: copies from 2 to 5, verifies until 8, commits at 9
//	20..30  round 2: copies from 22 to 25, verifies until 28, commits at 29
func history(verify job.VerifyMode) []round {
	one := round{
		job: "j", number: 1, verify: verify, begin: at(0), mode: job.Full, moved: job.Whole(size), known: true,
		attempts: []span{{at(2), at(5)}}, copied: at(5), settled: at(8), committed: at(9), end: at(10),
	}
	two := one
	two.number, two.begin, two.mode, two.moved = 2, at(20), job.Incremental, job.Extents{{Offset: 256, Length: 256}}
	two.attempts = []span{{at(22), at(25)}}
	two.copied, two.settled, two.committed, two.end = at(25), at(28), at(29), at(30)
	if verify != job.VerifyNone {
		one.verified, two.verified = size, 256
	}
	if verify == job.VerifyNone {
		one.settled, two.settled = one.copied, two.copied
	}
	return []round{one, two}
}

// wrote is a write of others that takes no time.
func wrote(when int, off int64) touch {
	return touch{
		act: "write", begin: at(when), end: at(when), where: job.Extents{{Offset: off, Length: 4}},
		data: []byte("ours"), hit: true,
	}
}

// after is the target as the touches leave it; nothing else writes.
func after(want []byte, touches []touch) []byte {
	is := slices.Clone(want)
	for _, t := range touches {
		from := int64(0)
		for _, e := range t.where {
			copy(is[e.Offset:e.End()], t.data[from:])
			from += e.Length
		}
	}
	return is
}

// Where and when a write was made decides what it means that its bytes are still there after round 2.
func TestAWriteIsJudgedByTimeAndPlace(t *testing.T) {
	const unmoved, moved = 600, 300
	for _, tc := range []struct {
		name   string
		kind   kind
		verify job.VerifyMode
		when   int
		off    int64
		want   class
	}{
		{"to a file, between rounds", onFile, job.VerifyFull, 15, unmoved, wrong},
		{"to a file, between rounds, where the round copies", onFile, job.VerifyFull, 15, moved, wrong},
		{"to a device, between rounds, verify none", onDevice, job.VerifyNone, 15, unmoved, wrong},
		{"to a file, before the copy begins", onFile, job.VerifyFull, 21, unmoved, wrong},
		{"to a file, during the copy, unmoved", onFile, job.VerifyFull, 23, unmoved, unseenDuring},
		{"to a file, during the copy, moved", onFile, job.VerifyFull, 23, moved, wrong},
		{"to a file, during the copy, moved, sample read all", onFile, job.VerifySample, 23, moved, wrong},
		{"to a file, during the copy, moved, none", onFile, job.VerifyNone, 23, moved, unseenNone},
		{"to a file, during the copy, unmoved, none", onFile, job.VerifyNone, 23, unmoved, unseenDuring},
		{"to a file, after the copy, before the commit", onFile, job.VerifyFull, 26, unmoved, wrong},
		{"to a file, while the commit runs", onFile, job.VerifyFull, 28, unmoved, undecided},
		{"to a file, after the commit", onFile, job.VerifyFull, 30, unmoved, afterwards},
		{"to a file, in the copy of round 1, which verified all", onFile, job.VerifyFull, 3, unmoved, wrong},
		{"to a file, in the copy of round 1, none", onFile, job.VerifyNone, 3, unmoved, unseenNone},
		{"to a file, in the copy of round 1, where round 2 copies", onFile, job.VerifyNone, 3, moved, wrong},
		{"to an export, between rounds", onExport, job.VerifyFull, 15, unmoved, unseenExport},
		{"to an export, between rounds, where the round copies", onExport, job.VerifyFull, 15, moved, wrong},
		{"to an export, during the copy, unmoved", onExport, job.VerifyFull, 23, unmoved, unseenDuring},
		{"to an export, during the copy, moved", onExport, job.VerifyFull, 23, moved, wrong},
		{"to an export, during the copy, moved, none", onExport, job.VerifyNone, 23, moved, unseenNone},
		{"to an export, during the copy, moved, sample", onExport, job.VerifySample, 23, moved, unseenSample},
		{"to an export, after the last look", onExport, job.VerifyFull, 27, moved, unseenExport},
		{"to an export, after the commit", onExport, job.VerifyFull, 30, moved, afterwards},
	} {
		s := scene{kind: tc.kind, size: size, rounds: history(tc.verify), touches: []touch{wrote(tc.when, tc.off)}}
		want := make([]byte, size)
		v := s.judge(want, after(want, s.touches), size, nil)
		if v.class != tc.want {
			t.Errorf("%s: %s (%s), want %s", tc.name, v.class, v.why, tc.want)
		}
	}
}

// The log of the export's server tells whether bytes were looked at after they were changed.
func TestAWriteToAnExportThatWasReadBackAfterwardsIsWrong(t *testing.T) {
	s := scene{kind: onExport, size: size, rounds: history(job.VerifyFull), touches: []touch{wrote(26, 300)}}
	want := make([]byte, size)
	is := after(want, s.touches)
	for _, tc := range []struct {
		at   int
		off  int64
		want class
	}{
		{27, 256, wrong},         // the verification of round 2
		{26, 256, unseenExport},  // it came first
		{27, 512, unseenExport},  // other bytes
		{100, 256, unseenExport}, // our own comparison
	} {
		s.reads = []asked{{at(tc.at), job.Extent{Offset: tc.off, Length: 256}}}
		if v := s.judge(want, is, size, nil); v.class != tc.want {
			t.Errorf("read at %d of %d: %s (%s), want %s", tc.at, tc.off, v.class, v.why, tc.want)
		}
	}
}

// Bytes count as a write's only if they are what it wrote, and the last write of a byte is the one that counts.
func TestEveryByteNeedsItsOwnExplanation(t *testing.T) {
	want := make([]byte, size)
	s := scene{kind: onFile, size: size, rounds: history(job.VerifyFull), touches: []touch{wrote(23, 600)}}
	is := after(want, s.touches)
	if v := s.judge(want, is, size, nil); v.class != unseenDuring {
		t.Errorf("%s (%s)", v.class, v.why)
	}
	for _, off := range []int{601, 700} { // not what was written; not written to
		bad := slices.Clone(is)
		bad[off]++
		if v := s.judge(want, bad, size, nil); v.class != wrong || !strings.Contains(v.why, "no touch wrote") {
			t.Errorf("at %d: %s (%s)", off, v.class, v.why)
		}
	}
	s.touches = append(s.touches, wrote(26, 600))
	if v := s.judge(want, is, size, nil); v.class != wrong {
		t.Errorf("the later write is hidden by the earlier one: %s (%s)", v.class, v.why)
	}
	s.touches = append(s.touches, wrote(40, 600))
	if v := s.judge(want, is, size, nil); v.class != afterwards {
		t.Errorf("%s (%s)", v.class, v.why)
	}
}

// A byte of another file may by chance be what an earlier write left.
func TestAWriteToAThingThatWasReplacedExplainsNothing(t *testing.T) {
	want := make([]byte, size)
	s := scene{kind: onFile, size: size, rounds: history(job.VerifyFull), touches: []touch{
		wrote(23, 600), {act: "swap", begin: at(24), end: at(24), whole: true, hit: true},
	}}
	if v := s.judge(want, after(want, s.touches), size, nil); v.class != wrong || !strings.Contains(v.why, "swap") {
		t.Errorf("%s (%s)", v.class, v.why)
	}
}

func TestATargetThatIsAnotherThingIsNeverExcusedByTheCopy(t *testing.T) {
	want := bytes.Repeat([]byte{1}, size)
	for _, tc := range []struct {
		name   string
		when   int
		is     []byte
		length int64
		err    error
		want   class
	}{
		{"swapped while it was copied", 23, make([]byte, size), size, nil, wrong},
		{"cut while it was copied", 23, want[:100], 100, nil, wrong},
		{"grown while it was copied", 23, want, size + 1, nil, wrong},
		{"gone since it was copied", 23, nil, 0, errors.New("no such file"), wrong},
		{"swapped while the commit ran", 28, make([]byte, size), size, nil, undecided},
		{"gone after the commit", 35, nil, 0, errors.New("no such file"), afterwards},
	} {
		s := scene{kind: onFile, size: size, rounds: history(job.VerifyNone), touches: []touch{
			{act: "swap", begin: at(tc.when), end: at(tc.when), whole: true},
		}}
		s.rounds[1].settled = at(28)
		if v := s.judge(want, tc.is, tc.length, tc.err); v.class != tc.want {
			t.Errorf("%s: %s (%s), want %s", tc.name, v.class, v.why, tc.want)
		}
	}
	s := scene{kind: onFile, size: size, rounds: history(job.VerifyNone)}
	if v := s.judge(want, make([]byte, size), size, nil); v.class != wrong {
		t.Errorf("without any touch: %s", v.class)
	}
	s.others = []span{{at(10), at(29)}}
	if v := s.judge(want, make([]byte, size), size, nil); v.class != wrong {
		t.Errorf("another VM writes at the same time: %s", v.class)
	}
	s.others = append(s.others, span{at(35), at(36)})
	if v := s.judge(want, make([]byte, size), size, nil); v.class != afterwards {
		t.Errorf("another VM has taken it over since: %s", v.class)
	}
}

func TestWhatARoundMovesMustBeKnownBeforeAWriteIsExcused(t *testing.T) {
	s := scene{kind: onFile, size: size, rounds: history(job.VerifyNone), touches: []touch{wrote(23, 600)}}
	s.rounds[1].known, s.rounds[1].moved = false, nil
	want := make([]byte, size)
	if v := s.judge(want, after(want, s.touches), size, nil); v.class != wrong {
		t.Errorf("%s (%s)", v.class, v.why)
	}
}
