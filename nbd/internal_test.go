package nbd

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
)

func TestRunsOfZerosCoverTheBufferAndNeverLie(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := 1 << rapid.IntRange(2, 6).Draw(t, "unit")
		shortest := unit * rapid.IntRange(1, 4).Draw(t, "shortest")
		off := rapid.Int64Range(0, 300).Draw(t, "off")
		var b []byte
		for range rapid.IntRange(1, 8).Draw(t, "parts") {
			n := rapid.IntRange(1, 200).Draw(t, "n")
			b = append(b, bytes.Repeat([]byte{byte(rapid.IntRange(0, 1).Draw(t, "value"))}, n)...)
		}
		at, last := 0, run{}
		_ = zeroRuns(b, off, unit, shortest, func(r run) error {
			if r.at != at || r.n <= 0 {
				t.Fatalf("run %+v after %+v", r, last)
			}
			if at > 0 && r.zero == last.zero {
				t.Fatalf("two runs of the same sort: %+v, %+v", last, r)
			}
			part := b[r.at:][:r.n]
			if r.zero && !bytes.Equal(part, make([]byte, r.n)) {
				t.Fatalf("run %+v holds data", r)
			}
			if r.zero && r.n < shortest && r.n < len(b) {
				t.Fatalf("run %+v is too short", r)
			}
			if !r.zero && bytes.Contains(part, make([]byte, shortest+2*unit)) {
				t.Fatalf("run %+v holds many zeros", r)
			}
			at, last = at+r.n, r
			return nil
		})
		if at != len(b) {
			t.Fatalf("runs end at %d of %d", at, len(b))
		}
	})
}

func TestIsZeroLooksAtEveryByte(t *testing.T) {
	for _, n := range []int{1, 2, 15, 16, 17, 31, 32, 33, 4096} {
		b := make([]byte, n)
		if !isZero(b) {
			t.Errorf("%d zeros are not zero", n)
		}
		for i := range b {
			b[i] = 1
			if isZero(b) {
				t.Errorf("byte %d of %d was not seen", i, n)
			}
			b[i] = 0
		}
	}
}

// drawExtents makes a normal list within size.
func drawExtents(t *rapid.T, label string, size, align int64) job.Extents {
	var x job.Extents
	for range rapid.IntRange(0, 6).Draw(t, label) {
		off := rapid.Int64Range(0, size/align-1).Draw(t, "offset") * align
		n := rapid.Int64Range(1, (size-off)/align).Draw(t, "length") * align
		x = append(x, job.Extent{Offset: off, Length: n})
	}
	return x.Merge(0)
}

// While data is written to a server, requests have half the size, but never less than a block.
func TestWhatIsWrittenToAServerComesInHalves(t *testing.T) {
	const kib = int64(1 << 10)
	for _, tc := range []struct {
		block           int64
		halves, writing bool
		want            int64
	}{
		{4 * kib, true, true, 512 * kib},
		{4 * kib, true, false, 1024 * kib},
		{4 * kib, false, true, 1024 * kib},
		{384 * kib, true, true, 384 * kib},
		{1024 * kib, true, true, 1024 * kib},
	} {
		p := newPlanner(job.Extents{{Offset: 0, Length: 64 << 20}}, nil, 1024*kib, tc.block, false)
		p.resize(1024*kib, tc.halves)
		p.probed = probes
		p.writing.Store(tc.writing)
		if s, _ := p.next(); s.n != tc.want {
			t.Errorf("%+v: a request of %d bytes", tc, s.n)
		}
	}
}

func TestThePlanCoversEachByteOnceWhateverTheServerSays(t *testing.T) {
	const block, size = int64(512), int64(1 << 30)
	rapid.Check(t, func(t *rapid.T) {
		todo := drawExtents(t, "todo", size, block)
		var allocated job.Extents
		if rapid.Bool().Draw(t, "allocated") {
			allocated = drawExtents(t, "allocated ranges", size, block)
			if allocated == nil {
				allocated = job.Extents{}
			}
		}
		p := newPlanner(todo, allocated, 64<<10, block, true)
		var data, zero job.Extents
		truth := drawExtents(t, "truth", size, 77) // where there is data
		for {
			if off, n, ok := p.question(); ok {
				p.answer(off, n, answerOf(t, truth, off, n))
			}
			s, state := p.next()
			if state == planEnd {
				break
			}
			if state == planLater {
				continue
			}
			e := job.Extent{Offset: s.off, Length: s.n}
			if s.zero {
				zero = append(zero, e)
				continue
			}
			if s.n > 64<<10 || s.off/(64<<10) != (s.off+s.n-1)/(64<<10) {
				t.Fatalf("planned range %v crosses the end of a request", e)
			}
			data = append(data, e)
		}
		if allocated != nil {
			truth = nil // the rest counts as zeros, whatever the source holds there
		}
		doneOnce(t, todo, data, zero, truth)
	})
}

// doneOnce fails unless data and zero together, in any order, are all bytes of todo once, and zero has no byte of
// truth.
func doneOnce(t *rapid.T, todo, data, zero, truth job.Extents) {
	t.Helper()
	all := append(append(job.Extents{}, data...), zero...)
	if all.Sum() != all.Merge(0).Sum() {
		t.Fatal("something is done twice")
	}
	if d := cmp.Diff(todo, all.Merge(0), cmpopts.EquateEmpty()); d != "" {
		t.Fatal(d)
	}
	if lost := zero.Merge(0).Within(truth); len(lost) > 0 {
		t.Fatalf("data is taken for zeros: %v", lost)
	}
}

// answerOf is a block status that a server might send: the truth, in any number of parts, cut short, or with impossible
// ranges at the end.
func answerOf(t *rapid.T, truth job.Extents, off, n int64) []plannedRange {
	var ranges []plannedRange
	window := job.Extents{{Offset: off, Length: n}}
	data := truth.Within(window)
	for at := off; at < off+n; {
		s := plannedRange{off: at, n: off + n - at, zero: true}
		if len(data) > 0 && data[0].Offset > at {
			s.n = data[0].Offset - at
		} else if len(data) > 0 {
			s.zero, s.n = false, data[0].Length
			data = data[1:]
		}
		ranges = append(ranges, s)
		at += s.n
	}
	ranges = ranges[:rapid.IntRange(0, len(ranges)).Draw(t, "said")]
	if k := len(ranges); k > 0 && rapid.Bool().Draw(t, "cut") {
		ranges[k-1].n = rapid.Int64Range(1, ranges[k-1].n).Draw(t, "length said")
	}
	if k := len(ranges); k > 0 && rapid.Bool().Draw(t, "impossible") {
		ranges = append(ranges, plannedRange{off: ranges[k-1].off + 1, n: 5, zero: true}, plannedRange{n: 0})
	}
	return ranges
}

func TestTheTrackerHoldsANormalList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		chunks := rapid.Permutation([]int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}).Draw(t, "order")
		n := rapid.IntRange(0, len(chunks)).Draw(t, "n")
		tr := &tracker{meter: &Meter{}}
		var want job.Extents
		for _, p := range chunks[:n] {
			tr.add(plannedRange{off: p * 10, n: 10}, p, hashes{})
			want = append(want, job.Extent{Offset: p * 10, Length: 10})
		}
		got, changed := tr.take()
		if changed != (n > 0) {
			t.Fatalf("changed: %v", changed)
		}
		if d := cmp.Diff(want.Merge(0).Sum(), got.transferred+got.skipped); d != "" {
			t.Fatal(d)
		}
		if n > 0 {
			if d := cmp.Diff(want.Merge(0), got.done); d != "" {
				t.Fatal(d)
			}
		}
	})
}

func TestACheckpointComesBackAsItWas(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 1 << 40
		c := checkpoint{
			identity: rapid.String().Draw(t, "identity"), plan: rapid.Uint64().Draw(t, "plan"),
			capacity: size,
		}
		c.done = drawExtents(t, "done", size, 1)
		c.transferred = rapid.Int64Range(0, c.done.Sum()).Draw(t, "transferred")
		c.skipped = rapid.Int64Range(0, c.done.Sum()-c.transferred).Draw(t, "skipped")
		c.sent = c.transferred + rapid.Int64Range(0, size).Draw(t, "sent again")
		got, err := decode(c.encode())
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c, got, cmp.AllowUnexported(checkpoint{}, progressSnapshot{}),
			cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

// A queue depth that changes all the time must not leave a chunk unfinished.
func TestNoChunkIsLeftInAThreadThatIsToPause(t *testing.T) {
	th := &thread{number: 3, shared: &shared{queueDepth: &queueDepth{}}}
	th.queueDepth.threads.Store(2)
	th.queueDepth.requests.Store(4)
	if th.mayBegin() {
		t.Error("a thread that is to pause takes more")
	}
	th.next = plannedRange{n: 1}
	if !th.mayBegin() {
		t.Error("what was taken is never begun")
	}
	th.next, th.again = plannedRange{}, retries{{}}
	if !th.mayBegin() {
		t.Error("what failed is never tried again")
	}
}
