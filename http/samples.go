package http

import (
	"container/list"
	"context"
	"sync"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	sampleEvery  = time.Second
	samplePause  = 250 * time.Millisecond // between two looks for new reports
	maxSamples   = 900                    // of one job: 15 minutes of copying in about 40 KiB
	maxSampled   = 1000                   // jobs of this node with samples at the same time
	maxExternals = 200                    // external jobs with samples at the same time
	sampleHold   = time.Minute            // an external job without a sample for that long makes room for another one
)

// samples keeps the recent speeds of jobs that copy. External jobs have places of their own: however many there are,
// they take none from a job of this node. Its methods may be called from many goroutines.
type samples struct {
	mu       sync.Mutex
	own      sampled
	external sampled
}

// sampled are the samples of some jobs. What a sample costs does not depend on the number of jobs.
type sampled struct {
	jobs  map[job.ID]*list.Element // of *sampledJob
	order list.List                // of the last samples, the oldest first
}

type sampledJob struct {
	id   job.ID
	list []rest.Sample
}

func newSampled() sampled { return sampled{jobs: map[job.ID]*list.Element{}} }

// follow takes samples of all reports, and counts restarts, until ctx ends.
func (s *samples) follow(ctx context.Context, reports Reports, count *restarts) {
	first, _, _, sub := reports.Subscribe(report.Version{})
	defer sub.Close()
	s.add(first)
	count.follow(first, true)
	wait := time.NewTimer(samplePause)
	defer wait.Stop()
	for {
		rs, err := sub.Next(ctx)
		if err != nil {
			return
		}
		s.add(rs)
		count.follow(rs, false)
		wait.Reset(samplePause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *samples) add(reports []*report.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range reports {
		switch {
		case r.Phase != job.Transfer:
		case r.Origin == report.External:
			s.external.keep(r, maxExternals, sampleHold)
		default:
			s.own.keep(r, maxSampled, 0)
		}
	}
}

// keep takes a sample of a job. If there are too many jobs, the one whose last sample is the oldest is forgotten, if it
// is older than hold; else the new job gets no sample.
func (s *sampled) keep(r *report.Report, most int, hold time.Duration) {
	at := s.jobs[r.JobID]
	if at == nil {
		if len(s.jobs) >= most && !s.forgetOldest(r.ObservedAt.Add(-hold)) {
			return
		}
		at = s.order.PushBack(&sampledJob{id: r.JobID})
		s.jobs[r.JobID] = at
	}
	j, _ := at.Value.(*sampledJob)
	if n := len(j.list); n > 0 && r.ObservedAt.Sub(j.list[n-1].At) < sampleEvery {
		return
	}
	s.order.MoveToBack(at)
	if len(j.list) >= maxSamples {
		j.list = append(j.list[:0], j.list[maxSamples/10:]...) // a tenth at once, so that copying is rare
	}
	j.list = append(j.list, rest.Sample{
		At: r.ObservedAt.UTC(), Round: r.Round, BytesTransferred: r.BytesTransferred, BytesPerSecond: r.BytesPerSecond,
	})
}

// forgetOldest forgets the job whose last sample is the oldest, if that is not after before.
func (s *sampled) forgetOldest(before time.Time) bool {
	j, _ := s.order.Front().Value.(*sampledJob)
	if j.list[len(j.list)-1].At.After(before) {
		return false
	}
	s.order.Remove(s.order.Front())
	delete(s.jobs, j.id)
	return true
}

// of returns a copy of a job's samples since a time; never nil.
func (s *samples) of(id job.ID, since time.Time) []rest.Sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []rest.Sample{}
	for _, set := range []*sampled{&s.own, &s.external} {
		at := set.jobs[id]
		if at == nil {
			continue
		}
		j, _ := at.Value.(*sampledJob)
		for _, v := range j.list {
			if !v.At.Before(since) {
				out = append(out, v)
			}
		}
		return out
	}
	return out
}
