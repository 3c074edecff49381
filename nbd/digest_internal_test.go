package nbd

import (
	"slices"
	"testing"

	"github.com/vmferry/vmferry/job"
)

func TestWhatIsLookedAtAgainWasCopied(t *testing.T) {
	const kib, mib = int64(1 << 10), int64(1 << 20)
	data := func(cells ...int) []int { return cells }
	for _, tc := range []struct {
		name string
		done job.Extents
		data []int // cells that do not hold zeros alone
		want []int
	}{
		{"nothing", nil, data(), nil},
		{"whole cells before parts", job.Extents{{Offset: 0, Length: 3*mib + 512*kib}}, data(1, 3), []int{1}},
		{"parts, if there is nothing else", job.Extents{{Offset: 0, Length: 512 * kib}, {Offset: mib, Length: 512 * kib}}, data(0, 1), []int{0, 1}},
		{"a cell of several parts once", job.Extents{{Offset: 0, Length: 4 * kib}, {Offset: 8 * kib, Length: 4 * kib}, {Offset: 64 * kib, Length: 4 * kib}}, data(0), []int{0}},
		{"a part before zeros", job.Extents{{Offset: 512 * kib, Length: 2 * mib}}, data(0), []int{0}},
		{"zeros, if there is nothing else", job.Extents{{Offset: 512 * kib, Length: mib}}, data(), []int{0, 1}},
		{"the end of the disk", job.Extents{{Offset: 7 * mib, Length: 4*kib + 1}}, data(7), []int{7}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDigests(7*mib + 4*kib + 1)
			for _, i := range tc.data {
				d.cells[i] = sum{1, 1}
			}
			got := d.someOf(tc.done)
			slices.Sort(got)
			if !slices.Equal(got, tc.want) {
				t.Errorf("cells %v, want %v", got, tc.want)
			}
		})
	}
}
