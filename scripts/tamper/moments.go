package main

import (
	"context"
	"slices"
	"time"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// tamper does those steps of the plan whose moment has come.
func (p *player) tamper(ctx context.Context, r report.Report) {
	for i := range p.steps {
		s := p.steps[i]
		if s.round == 0 || !s.due(r) {
			continue
		}
		p.steps[i].round = 0 // done
		if !pause(ctx, s.late) {
			return
		}
		switch {
		case s.guest:
			if err := p.vm.write(ctx, s.disk, p.r); err != nil {
				p.say("%v", err)
			}
		case s.verb != "":
			_ = p.stack.client.Command(ctx, r.JobID, s.verb) // it may be too late for it
		case s.when == atPause:
			p.whilePaused(ctx, r, s)
		default:
			p.do(ctx, s)
		}
		return // the report is old now
	}
}

// due says whether a step's moment has come.
func (s step) due(r report.Report) bool {
	if s.round != max(1, r.Round) || s.when == atBetween {
		return false
	}
	moving := r.Phase == job.Transfer && r.BytesToTransfer != nil &&
		float64(r.BytesTransferred) >= s.part*float64(*r.BytesToTransfer)
	switch s.when {
	case atWait:
		return r.Status == job.Pending || slices.ContainsFunc(r.Disks, func(d report.Disk) bool {
			return d.WaitingFor != "" && d.BytesTransferred == 0
		})
	case atPlan:
		return slices.Contains([]job.Phase{job.Preflight, job.EnablingCBT, job.Snapshot, job.Connect}, r.Phase)
	case atCopy, atPause:
		return moving
	case atVerify:
		return r.Phase == job.Verify
	case atCommit:
		return r.Phase == job.Commit || r.Phase == job.Cleanup && r.Status == job.Running
	default:
		return false
	}
}

// whilePaused pauses the job, does the step when its disks have stopped, and resumes the job.
func (p *player) whilePaused(ctx context.Context, r report.Report, s step) {
	if p.stack.client.Command(ctx, r.JobID, job.Pause) != nil {
		return // too late
	}
	_ = child.Until(ctx, pollEvery, roundTime, "the disks stop", func() bool { // the round has a deadline of its own
		now, err := p.stack.client.Job(ctx, r.JobID)
		return err == nil && (now.Status.Terminal() || !slices.ContainsFunc(now.Disks, func(d report.Disk) bool {
			return d.Status == job.DiskRunning || d.Status == job.DiskVerifying
		}))
	})
	p.do(ctx, s)
	_ = p.stack.client.Command(ctx, r.JobID, job.Resume) // it may have ended
}

// pause waits for d. It is false if ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
