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
	}
	for _, sort := range []sortParam{
		"created_at", "-created_at", "name", "-name", "status", "-status", "percent", "-percent",
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
				Percent: last.OverallPercent,
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("by %s: the pages differ from the sorted list", sort)
		}
	}
}

func TestExternalJobsTakeNoSamplesFromAJobOfThisNode(t *testing.T) {
	s := samples{own: newSampled(), external: newSampled()}
	now := time.Unix(1e9, 0)
	add := func(id string, origin report.Origin) {
		s.add([]*report.Report{{JobID: job.ID(id), Origin: origin, Phase: job.Transfer, ObservedAt: now}})
	}
	add("job-own", report.Own)
	for range 3 {
		for i := range maxSampled + 1 {
			add(fmt.Sprint("job-", i), report.External)
		}
		now = now.Add(2 * time.Second)
	}
	if n := len(s.of("job-own", time.Time{})); n != 1 {
		t.Errorf("a job of this node has %d samples", n)
	}
	if n := len(s.of("job-0", time.Time{})); n != 3 {
		t.Errorf("an external job that came first has %d samples", n)
	}
	now = now.Add(2 * sampleHold)
	add("job-new", report.External)
	if n := len(s.of("job-new", time.Time{})); n != 1 {
		t.Errorf("a new external job has %d samples while the others are silent", n)
	}
	if n := s.external.order.Len(); n != maxExternals || n != len(s.external.jobs) {
		t.Errorf("%d external jobs have samples", n)
	}
}
