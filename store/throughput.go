package store

import (
	lists "container/list"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Bounds of Throughput. In memory, a job of this node takes 102 KiB while it copies and a job of another tool 21 KiB;
// on the disk, a job of this node takes 119 KiB. So all takes at most 56 MiB of memory and 117 MiB of the disk.
const (
	maxSampled   = 500         // jobs of this node in memory; the others are in their files
	maxExternals = 200         // jobs of other tools; they have no files and only the finest step
	maxFiles     = 1000        // jobs with a file; that which was written the longest time ago is removed first
	sampledHold  = time.Minute // after its last sample, a job leaves the memory, or makes room for another one
	flushEvery   = 10 * time.Second
	lookEvery    = 250 * time.Millisecond // between two looks for new reports
)

// Throughput keeps how fast the jobs of this node moved bytes: each second of the last 15 minutes, each 10 s of the
// last 4 hours and each 5 min of the last week, for each job and for all together. Of jobs of other tools it keeps the
// last 15 minutes. It is a projection: it follows a Memory, and no copy waits for it. Its files are written every 10 s
// and not flushed, so a crash loses the last seconds, and a power loss perhaps more. Its methods may be called from
// many goroutines.
type Throughput struct {
	log *slog.Logger
	now func() time.Time

	mu       sync.Mutex
	files    *speedFiles // nil: nothing is kept over a restart
	own      sampled
	external sampled
	total    *speeds
	moving   map[job.ID]*report.Report // jobs of this node that copy, by their newest reports
	flushed  time.Time
}

// sampled are the speeds of some jobs. What a sample costs does not depend on the number of jobs.
type sampled struct {
	most  int
	jobs  map[job.ID]*lists.Element // of *sampledJob
	order lists.List                // of the last samples, the oldest first
}

type sampledJob struct {
	id      job.ID
	created time.Time
	last    time.Time // of the newest sample
	*speeds
}

func newSampled(most int) sampled { return sampled{most: most, jobs: map[job.ID]*lists.Element{}} }

// OpenThroughput reads what an earlier daemon has kept in a folder, and makes the folder if it is missing. dir is "" to
// keep nothing over a restart. What cannot be read is logged and left out: it is never an error.
func OpenThroughput(dir string, log *slog.Logger, now func() time.Time) *Throughput {
	t := &Throughput{
		log: log, now: now, own: newSampled(maxSampled), external: newSampled(maxExternals),
		moving: map[job.ID]*report.Report{}, flushed: now(),
	}
	if dir != "" {
		t.files = openSpeedFiles(dir, log)
	}
	t.total = t.files.read("", time.Time{})
	return t
}

// Follow takes samples of all reports until ctx ends, and then writes what is not written yet.
func (t *Throughput) Follow(ctx context.Context, memory *Memory) {
	first, _, _, sub := memory.Subscribe(report.Version{})
	defer sub.Close()
	changes := make([]report.Change, 0, len(first))
	for _, r := range first {
		changes = append(changes, report.Change{Report: r})
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		t.take(changes)
		t.passed(t.now(), false)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
		changes = sub.poll()
	}
	t.take(changes)
	t.passed(t.now(), true)
}

// poll returns the changes since the last call, without waiting.
func (s *Subscription) poll() []report.Change {
	out, place, _ := s.memory.look(s.place)
	s.place = place
	return out
}

func (t *Throughput) take(changes []report.Change) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range changes {
		id, r := c.JobID(), c.Report
		switch {
		case c.Deleted != nil:
			delete(t.moving, id)
			t.own.forget(id)
			t.external.forget(id)
			t.files.remove(id)
		case r.Phase != job.Transfer || r.Status != job.Running:
			delete(t.moving, id)
		case r.Origin == report.External:
			if j := t.room(&t.external, r); j != nil {
				j.add(r.ObservedAt, sampleOf(r), 1)
			}
		default:
			t.moving[id] = r
			if j := t.room(&t.own, r); j != nil {
				j.add(r.ObservedAt, sampleOf(r), len(steps))
			}
		}
	}
}

func sampleOf(r *report.Report) slot {
	s := slot{round: clip16(r.Round), transferred: r.BytesTransferred, speed: noSpeed}
	if r.BytesPerSecond != nil {
		s.speed = float32(*r.BytesPerSecond)
	}
	s.load = packed(r.Load)
	return s
}

// room is the place of a job; nil if there is none.
func (t *Throughput) room(in *sampled, r *report.Report) *sampledJob {
	at := in.jobs[r.JobID]
	if at != nil {
		if j, _ := at.Value.(*sampledJob); j.created.Equal(r.CreatedAt) {
			in.order.MoveToBack(at)
			j.last = r.ObservedAt
			return j
		}
		in.forget(r.JobID) // of another job that had the id
	}
	if len(in.jobs) >= in.most {
		oldest, _ := in.order.Front().Value.(*sampledJob)
		if oldest.last.After(r.ObservedAt.Add(-sampledHold)) {
			return nil
		}
		t.leave(in, oldest)
	}
	j := &sampledJob{id: r.JobID, created: r.CreatedAt, last: r.ObservedAt}
	if in == &t.own {
		j.speeds = t.files.read(r.JobID, r.CreatedAt)
	} else {
		j.speeds = newSpeeds()
	}
	in.jobs[r.JobID] = in.order.PushBack(j)
	return j
}

// leave takes a job out of the memory. A job of this node stays in its file.
func (t *Throughput) leave(in *sampled, j *sampledJob) {
	if in == &t.own {
		t.files.write(j.id, j.created, j.speeds)
	}
	in.forget(j.id)
}

func (s *sampled) forget(id job.ID) {
	if at := s.jobs[id]; at != nil {
		s.order.Remove(at)
		delete(s.jobs, id)
	}
}

// passed takes a sample of all jobs together for this second, and writes the files if it is time to, or always.
func (t *Throughput) passed(now time.Time, always bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.moving); n > 0 {
		s, load := slot{round: clip16(n), speed: noSpeed}, report.Load{}
		var sum *float64
		for _, r := range t.moving {
			report.AddSpeed(&sum, r.BytesPerSecond)
			load.Source += r.Load.Source / float64(n)
			load.Target += r.Load.Target / float64(n)
			load.Throttle += r.Load.Throttle / float64(n)
		}
		if sum != nil {
			s.speed = float32(*sum)
		}
		s.load = packed(load)
		t.total.add(now, s, len(steps))
	}
	if !always && now.Sub(t.flushed) < flushEvery && !now.Before(t.flushed) {
		return
	}
	t.flushed = now
	t.files.write("", time.Time{}, t.total)
	for at := t.own.order.Front(); at != nil; {
		j, _ := at.Value.(*sampledJob)
		at = at.Next()
		if t.files != nil && now.Sub(j.last) > sampledHold {
			t.leave(&t.own, j)
		} else {
			t.files.write(j.id, j.created, j.speeds)
		}
	}
}

// Job returns the speeds of a job in the last time, as long as window. step is that of the samples: 1 s, 10 s or 5 min,
// or 0 for the finest that reaches back so far. r is the newest report of the job.
func (t *Throughput) Job(r *report.Report, window, step time.Duration) report.Series {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, in := range []*sampled{&t.own, &t.external} {
		if at := in.jobs[r.JobID]; at != nil {
			if j, _ := at.Value.(*sampledJob); j.created.Equal(r.CreatedAt) {
				return j.series(t.now(), window, step)
			}
		}
	}
	if r.Origin == report.External {
		return newSpeeds().series(t.now(), window, step)
	}
	return t.files.read(r.JobID, r.CreatedAt).series(t.now(), window, step)
}

// Total is Job for all jobs of this node together.
func (t *Throughput) Total(window, step time.Duration) report.Series {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.total.series(t.now(), window, step)
	for i := range s.Samples {
		s.Samples[i].Jobs, s.Samples[i].Round = s.Samples[i].Round, 0
	}
	return s
}
