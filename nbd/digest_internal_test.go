package nbd

import (
	"bytes"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmferry/vmferry/job"
)

// A copy leaves out the zeros that it finds; a verification hashes all bytes that it reads back. The digests are equal.
func TestZerosThatWereFoundCountForNothing(t *testing.T) {
	const mib = int64(1 << 20)
	rapid.Check(t, func(t *rapid.T) {
		off := rapid.Int64Range(mib-100, mib).Draw(t, "off")
		var b []byte
		for range rapid.IntRange(1, 6).Draw(t, "parts") {
			n := rapid.IntRange(1, 5*zeroUnit).Draw(t, "bytes")
			b = append(b, bytes.Repeat([]byte{byte(rapid.IntRange(0, 1).Draw(t, "value"))}, n)...)
		}
		unit := zeroUnit * rapid.SampledFrom([]int{1, 2, 4}).Draw(t, "units")
		found, whole := newDigests(2*mib), newDigests(2*mib)
		var sums []cellSum
		_ = zeroRuns(b, off, unit, unit, func(r run) error {
			if !r.zero {
				sums = found.appendSums(sums, off+int64(r.at), b[r.at:][:r.n])
			}
			return nil
		})
		found.add(sums)
		whole.add(whole.sums(off, b))
		if bad := whole.differing(found); len(bad) > 0 {
			t.Fatalf("the digests differ in %v", bad)
		}
	})
}

func TestWhatIsLookedAtAgainWasCopied(t *testing.T) {
	const kib, mib = int64(1 << 10), int64(1 << 20)
	data := func(cells ...int) []int { return cells }
	for _, tc := range []struct {
		name string
		done job.Extents
		data []int // cells that do not hold zeros alone
		want []int // cells with data that are looked at
		zero []int // cells of zeros
	}{
		{"nothing", nil, data(), nil, nil},
		{
			"whole cells before parts",
			job.Extents{{Offset: 0, Length: 3*mib + 512*kib}},
			data(1, 3),
			[]int{1},
			[]int{0, 2},
		},
		{"parts, if there is nothing else", job.Extents{
			{Offset: 0, Length: 512 * kib},
			{Offset: mib, Length: 512 * kib},
		}, data(0, 1), []int{0, 1}, nil},
		{"a cell of several parts once", job.Extents{
			{Offset: 0, Length: 4 * kib},
			{Offset: 8 * kib, Length: 4 * kib},
			{Offset: 64 * kib, Length: 4 * kib},
		}, data(0), []int{0}, nil},
		{"a part beside zeros", job.Extents{{Offset: 512 * kib, Length: 2 * mib}}, data(0), []int{0}, []int{1, 2}},
		{"zeros alone", job.Extents{{Offset: 512 * kib, Length: mib}}, data(), nil, []int{0, 1}},
		{"the end of the disk", job.Extents{{Offset: 7 * mib, Length: 4*kib + 1}}, data(7), []int{7}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDigests(7*mib + 4*kib + 1)
			for _, i := range tc.data {
				d.cells[i] = sum{1, 1}
			}
			got, zeros := d.sampleCells(tc.done)
			slices.Sort(got)
			slices.Sort(zeros)
			if !slices.Equal(got, tc.want) || !slices.Equal(zeros, tc.zero) {
				t.Errorf("cells %v and %v, want %v and %v", got, zeros, tc.want, tc.zero)
			}
		})
	}
}
