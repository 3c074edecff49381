package nbd

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
)

// Whatever a target answers, each byte is done once, and nothing is written where a request to zero is in flight.
func TestABulkZeroComesBeforeWhatIsWrittenOnIt(t *testing.T) {
	const block, size = int64(4096), 3 * int64(longestZero)
	rapid.Check(t, func(t *rapid.T) {
		every := block * rapid.Int64Range(16, 2000).Draw(t, "distance")
		length := block * rapid.Int64Range(1, every/block).Draw(t, "length")
		var truth job.Extents
		for at := block * rapid.Int64Range(0, 8000).Draw(t, "first"); at+length <= size; at += every {
			truth = append(truth, job.Extent{Offset: at, Length: length})
		}
		truth = truth.Merge(0)
		todo := job.Whole(size).Cut(drawExtents(t, "done before", size, block))
		p := newPlanner(todo, nil, 1<<20, block, true)
		p.useBulkZeros = true
		var data, zero, inFlight job.Extents
		answer := func(i int) {
			s := inFlight[i]
			inFlight = append(append(job.Extents{}, inFlight[:i]...), inFlight[i+1:]...)
			zero = append(zero, p.bulkZeroAnswered(s.Offset, rapid.IntRange(0, 9).Draw(t, "zeroed") > 0)...)
		}
		for !p.done() {
			if off, n, ok := p.question(); ok {
				p.answer(off, n, answerOf(t, truth, off, n))
			}
			if len(inFlight) > 0 && rapid.Bool().Draw(t, "answered") {
				answer(rapid.IntRange(0, len(inFlight)-1).Draw(t, "which"))
			}
			s, state := p.next()
			switch e := (job.Extent{Offset: s.off, Length: s.n}); {
			case state != planGot && len(inFlight) > 0:
				answer(0)
			case state != planGot:
			case len(inFlight.Merge(0).Within(job.Extents{e})) > 0:
				t.Fatalf("%v begins while %v is being zeroed", e, inFlight)
			case s.bulkZero:
				inFlight = append(inFlight, e)
			case s.zero:
				zero = append(zero, e)
			default:
				data = append(data, e)
			}
		}
		doneOnce(t, todo, data, zero, truth)
		if p.ahead != 0 {
			t.Fatalf("%d bytes are still ahead", p.ahead)
		}
	})
}

func TestOnlyManyHolesAmongLittleDataAreZeroedAtOnce(t *testing.T) {
	for _, tc := range []struct {
		name         string
		every, data  int64
		refused      bool
		costly, want bool
	}{
		{name: "scattered", every: 640 << 10, data: 64 << 10, want: true},
		{name: "half of it is data", every: 128 << 10, data: 64 << 10, want: true},
		{name: "more than half is data", every: 128 << 10, data: 68 << 10},
		{name: "few holes", every: 16 << 20, data: 64 << 10},
		{name: "refused before", every: 640 << 10, data: 64 << 10, refused: true},
		{name: "zeros travel", every: 640 << 10, data: 64 << 10, costly: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPlanner(job.Whole(longestZero), nil, 1<<20, 4096, true)
			p.useBulkZeros = !tc.refused
			if tc.costly {
				p.zerosTravel()
			}
			var ranges []plannedRange
			for at := int64(0); at < longestZero; at += tc.every {
				n := min(tc.every, longestZero-at)
				ranges = append(ranges, plannedRange{off: at, n: min(n, tc.data)},
					plannedRange{off: at + tc.data, n: n - tc.data, zero: true})
			}
			p.answer(0, longestZero, ranges)
			if s, _ := p.next(); s.bulkZero != tc.want {
				t.Errorf("the first chunk is %+v", s)
			}
		})
	}
}
