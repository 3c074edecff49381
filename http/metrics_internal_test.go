package http

import (
	"maps"
	"testing"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

func TestRestartsAreCountedByTheKindOfTheFailure(t *testing.T) {
	c := restarts{seen: map[job.ID]map[job.DiskID]int{}, by: map[job.Kind]int{}}
	for _, step := range []struct {
		restarts int
		cause    job.Kind
		status   job.Status
		first    bool
		want     map[job.Kind]int
	}{
		{5, job.IO, job.Running, true, nil}, // before the daemon's start
		{7, job.Timeout, job.Running, false, map[job.Kind]int{job.Timeout: 2}},
		{7, job.Timeout, job.Running, false, map[job.Kind]int{job.Timeout: 2}},
		{8, job.IO, job.StatusFailed, false, map[job.Kind]int{job.Timeout: 2, job.IO: 1}},
		{8, job.IO, job.StatusFailed, false, map[job.Kind]int{job.Timeout: 2, job.IO: 1}},
		{0, job.IO, job.Running, false, map[job.Kind]int{job.Timeout: 2, job.IO: 1}}, // retried
		{1, job.IO, job.Running, false, map[job.Kind]int{job.Timeout: 2, job.IO: 2}},
	} {
		c.follow([]*report.Report{{
			JobID: "one", Status: step.status,
			Disks: []report.Disk{{
				DiskID: "disk-2000", Restarts: step.restarts, LastCause: &report.Error{Code: step.cause},
			}},
		}}, step.first)
		if got := c.counts(); !maps.Equal(got, step.want) {
			t.Errorf("after %d restarts, %s: %v, want %v", step.restarts, step.status, got, step.want)
		}
	}
	c.follow([]*report.Report{{JobID: "one", Status: job.StatusCancelled}}, false)
	if len(c.seen) != 0 {
		t.Error("a job that has ended is still kept")
	}
}
