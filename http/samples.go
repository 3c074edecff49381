package http

import (
	"context"
	"sync"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	sampleEvery = time.Second
	maxSamples  = 900  // of one job: 15 minutes of copying in about 40 KiB
	maxSampled  = 1000 // jobs with samples at the same time
)

// samples keeps the recent speeds of jobs that copy. Its methods may be called from many goroutines.
type samples struct {
	mu   sync.Mutex
	jobs map[job.ID][]rest.Sample
}

// follow takes samples of all reports, and counts restarts, until ctx ends.
func (s *samples) follow(ctx context.Context, reports Reports, count *restarts) {
	first, _, _, sub := reports.Subscribe(report.Version{})
	defer sub.Close()
	s.add(first)
	count.follow(first, true)
	for {
		rs, err := sub.Next(ctx)
		if err != nil {
			return
		}
		s.add(rs)
		count.follow(rs, false)
	}
}

func (s *samples) add(reports []report.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range reports {
		if r.Phase == job.Transfer {
			s.keep(r)
		}
	}
}

func (s *samples) keep(r report.Report) {
	old := s.jobs[r.JobID]
	if n := len(old); n > 0 && r.ObservedAt.Sub(old[n-1].At) < sampleEvery {
		return
	}
	if old == nil && len(s.jobs) >= maxSampled {
		s.forgetOldest()
	}
	if len(old) >= maxSamples {
		old = append(old[:0], old[maxSamples/10:]...) // drops a tenth at once, so that copying the slice is rare
	}
	s.jobs[r.JobID] = append(old, rest.Sample{
		At: r.ObservedAt.UTC(), Round: r.Round, BytesTransferred: r.BytesTransferred, BytesPerSecond: r.BytesPerSecond,
	})
}

func (s *samples) forgetOldest() {
	var oldest job.ID
	var at time.Time
	for id, list := range s.jobs {
		if last := list[len(list)-1].At; oldest == "" || last.Before(at) {
			oldest, at = id, last
		}
	}
	delete(s.jobs, oldest)
}

// of returns a copy of a job's samples since a time; never nil.
func (s *samples) of(id job.ID, since time.Time) []rest.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]rest.Sample, 0, len(s.jobs[id]))
	for _, v := range s.jobs[id] {
		if !v.At.Before(since) {
			out = append(out, v)
		}
	}
	return out
}
