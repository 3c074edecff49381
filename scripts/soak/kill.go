package main

import (
	"context"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// The victims, in the table's order.
const (
	ofDaemon  = "daemon, SIGKILL"
	ofStop    = "daemon, SIGTERM"
	ofSource  = "server of a source"
	ofFile    = "server of a target, its file stays"
	ofMemory  = "power of a target, what was not flushed is lost"
	ofRedis   = "Redis, comes back empty"
	moveAgain = 20 * time.Second // most that a job may take to catch up
)

func victims() []string { return []string{ofDaemon, ofStop, ofSource, ofFile, ofMemory, ofRedis} }

// kill ends a victim, starts it again, and measures the cost: the bytes that are sent again until the job has caught up
// with where it was.
func (s *soak) kill(ctx context.Context, w *watcher) error {
	who := s.choose()
	before := w.seen()
	k := killed{who: who}
	began := time.Now()
	var err error
	switch who {
	case ofDaemon, ofStop:
		sig := syscall.SIGKILL
		if who == ofStop {
			sig = syscall.SIGTERM
		}
		endBy(s.stack.daemon, sig)
		k.end = time.Since(began)
		began = time.Now()
		err = s.stack.daemon.Start(ctx)
	case ofSource:
		pid := sourcePID(before, s.random.IntN(3))
		if pid == 0 {
			return nil // no disk is read now
		}
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended meanwhile
	case ofFile:
		endBy(s.stack.file, syscall.SIGKILL)
		err = s.stack.file.Start(ctx)
	case ofMemory:
		err = s.stack.powerCut(ctx)
	case ofRedis:
		endBy(s.stack.redis, syscall.SIGKILL)
		err = s.stack.redis.Start(ctx)
	}
	if err != nil {
		return err
	}
	moves := before.Status == job.Running && before.Phase == job.Transfer
	if who != ofRedis && moves {
		k.measured = true
		k.again, k.back = s.cost(ctx, w, before, began)
	}
	s.results.add(k)
	say("%3d %s in %s at %.1f%%: %s sent again, moves again after %v", s.results.kills(), who, before.Phase,
		before.OverallPercent, job.FormatSize(k.again), k.back.Round(time.Millisecond))
	return nil
}

// caughtUp says whether every disk is further than it was, or done.
func caughtUp(was, is report.Report) bool {
	if is.Phase != was.Phase || is.Round != was.Round || len(is.Disks) != len(was.Disks) {
		return true
	}
	for i, d := range is.Disks {
		if d.Status == job.DiskRunning && d.BytesTransferred <= was.Disks[i].BytesTransferred ||
			d.Status == job.DiskBackoff || d.Status == job.DiskPending {
			return false
		}
	}
	return true
}

// choose picks a victim by weight, among those that are wanted.
func (s *soak) choose() string {
	weights := []int{4, 1, 4, 2, 3, 1}
	n := 0
	for i, w := range weights {
		if s.only != nil && !s.only.MatchString(victims()[i]) {
			weights[i], w = 0, 0
		}
		n += w
	}
	if n == 0 {
		return ofDaemon
	}
	at := s.random.IntN(n)
	for i, w := range weights {
		if at -= w; at < 0 {
			return victims()[i]
		}
	}
	return ofDaemon
}

// sourcePID is the process that reads one of the disks; the search begins at the disk from. 0: no disk is read.
func sourcePID(r report.Report, from int) int {
	for i := range r.Disks {
		d := r.Disks[(from+i)%len(r.Disks)]
		if d.Status == job.DiskRunning && d.SourcePID > 1 {
			return d.SourcePID
		}
	}
	return 0
}

// cost waits until every disk is as far as the report before says. It returns the bytes that were sent again meanwhile,
// and the time from the kill to the first byte.
func (s *soak) cost(ctx context.Context, w *watcher, before report.Report, began time.Time) (again int64,
	back time.Duration,
) {
	_ = child.Until(ctx, pollEvery, moveAgain, "the job moves again", func() bool {
		r := w.seen()
		if r.Version() == before.Version() {
			return false
		}
		moved := r.BytesTransferred > before.BytesTransferred || r.BytesResent > before.BytesResent ||
			r.Phase != before.Phase
		if moved && back == 0 {
			back = time.Since(began)
		}
		return caughtUp(before, r) || w.ended()
	}) // if it does not move, the round fails
	return max(0, w.seen().BytesResent-before.BytesResent), back
}
