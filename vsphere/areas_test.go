package vsphere_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
)

func TestAPageOfChangedAreasMustBeConsistentAndContinue(t *testing.T) {
	const capacity = 1000
	page := func(start, length int64, areas ...int64) types.DiskChangeInfo {
		p := types.DiskChangeInfo{StartOffset: start, Length: length}
		for i := 0; i < len(areas); i += 2 {
			p.ChangedArea = append(p.ChangedArea, types.DiskChangeExtent{Start: areas[i], Length: areas[i+1]})
		}
		return p
	}
	for _, tc := range []struct {
		name  string
		page  types.DiskChangeInfo
		from  int64
		areas job.Extents
		next  int64
		bad   bool
	}{
		{
			name: "an ordinary page", page: page(0, 500, 0, 10, 100, 10),
			areas: job.Extents{{Offset: 0, Length: 10}, {Offset: 100, Length: 10}}, next: 500,
		},
		{name: "an empty page", page: page(0, 500), areas: job.Extents{}, next: 500},
		{
			name: "unsorted and overlapping areas become normal", page: page(0, 1000, 300, 50, 0, 10, 320, 100, 10, 5),
			areas: job.Extents{{Offset: 0, Length: 15}, {Offset: 300, Length: 120}}, next: 1000,
		},
		{
			name: "the last block may reach beyond the end", page: page(900, 300, 960, 100), from: 900,
			areas: job.Extents{{Offset: 960, Length: 40}}, next: 1200,
		},
		{
			name: "a page that starts earlier is good if it ends later", page: page(0, 600, 10, 10), from: 500,
			areas: job.Extents{{Offset: 10, Length: 10}}, next: 600,
		},
		{name: "a page that starts later has skipped something", page: page(600, 100), from: 500, bad: true},
		{name: "a page without length", page: page(500, 0), from: 500, bad: true},
		{name: "a page that ends where it was asked to start", page: page(400, 100), from: 500, bad: true},
		{name: "a page of negative length", page: page(500, -100), from: 500, bad: true},
		{name: "a page that overflows", page: page(500, math.MaxInt64), from: 500, bad: true},
		{name: "a negative start of the page", page: page(-100, 900), from: 500, bad: true},
		{name: "an area beyond the end", page: page(0, 1000, 1000, 1), bad: true},
		{name: "an area before the start", page: page(0, 1000, -1, 2), bad: true},
		{name: "an area without length", page: page(0, 1000, 5, 0), bad: true},
		{name: "an area of negative length", page: page(0, 1000, 5, -1), bad: true},
		{name: "an area that overflows", page: page(0, 1000, 5, math.MaxInt64), bad: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			areas, next, err := vsphere.CheckPage(tc.page, tc.from, capacity)
			if tc.bad {
				if err == nil {
					t.Fatalf("accepted as %v, next offset %d", areas, next)
				}
				return
			}
			must(t, err)
			if next != tc.next {
				t.Errorf("next offset %d, want %d", next, tc.next)
			}
			if diff := cmp.Diff(tc.areas, areas); diff != "" && len(tc.areas)+len(areas) > 0 {
				t.Errorf("areas (-want +got):\n%s", diff)
			}
		})
	}
}
