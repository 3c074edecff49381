package http

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

func TestPagesOfAListAreThoseOfTheWholeListSorted(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var all []*report.Report
	for i := range 500 {
		all = append(all, &report.Report{
			JobID: job.ID(fmt.Sprintf("job-%03d", i)), CreatedAt: time.Unix(int64(r.IntN(50)), 0),
			VM: report.VM{Name: fmt.Sprint("vm-", r.IntN(20))}, OverallPercent: float64(r.IntN(10)),
			Status: []job.Status{job.Running, job.Pending, job.StatusFailed}[r.IntN(3)],
		})
		if i%3 > 0 {
			all[i].EndedAt = new(time.Unix(int64(r.IntN(50)), 0))
		}
	}
	for _, sort := range []sortParam{
		"created_at", "-created_at", "name", "-name", "status", "-status", "percent", "-percent", "ended_at",
		"-ended_at",
	} {
		slices.SortFunc(all, order(newestFirst)) // as Each has them
		if sort == oldestFirst {
			slices.Reverse(all)
		}
		want := slices.Clone(all)
		slices.SortFunc(want, order(sort))
		in := &listInput{Sort: sort, Limit: 7}
		var got []*report.Report
		var after *cursor
		for {
			page := in.first(slices.Values(all), after, in.Limit+1)
			got = append(got, page[:min(len(page), in.Limit)]...)
			if len(page) <= in.Limit {
				break
			}
			last := page[in.Limit-1]
			after = &cursor{
				Sort: sort, ID: last.JobID, Created: last.CreatedAt, Name: last.VM.Name, Status: last.Status,
				Percent: last.OverallPercent, Ended: endedAt(last),
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("by %s: the pages differ from the sorted list", sort)
		}
	}
}
