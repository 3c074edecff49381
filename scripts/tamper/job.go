package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/child"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const (
	roundTime   = 20 * time.Second        // after which a job is cancelled
	cancelTime  = 30 * time.Second        // from a cancel to the end of the job
	backoffTime = 1500 * time.Millisecond // that a job may try again in vain, before it is cancelled
)

// errStuck means that a job does not end. The score knows it.
var errStuck = errors.New("the job does not end")

// play runs the job to its end. Its error is of the rehearsal itself.
func (p *player) play(ctx context.Context) error {
	defer func() { p.score.add(p.out) }()
	for _, t := range p.targets {
		t.keep()
	}
	p.hold()
	r, _, err := p.stack.client.Submit(ctx, p.spec(), rest.SubmitOptions{})
	if err != nil {
		p.out.reason = fmt.Sprintf("refused: %s: %s", job.KindOf(err), p.plain(err.Error()))
		if p.after != nil {
			p.after(p.order.rounds)
		}
		return unlessRefusal(err)
	}
	p.mu.Lock()
	p.id = r.JobID
	p.mu.Unlock()
	if p.after != nil {
		p.after(0)
	}
	retried := !p.order.retry
	for {
		round := r.Round
		if r, err = p.round(ctx, r); err != nil {
			return err
		}
		if p.after != nil && r.Round > round {
			p.after(r.Round)
		}
		verb, more := p.next(r, &retried)
		if err := p.between(ctx, r.Round); err != nil {
			return err
		}
		if !more {
			p.end(r)
			return nil
		}
		if err := p.command(ctx, verb); err != nil {
			p.out.reason = fmt.Sprintf("%s refused: %s: %s", verb, job.KindOf(err), p.plain(err.Error()))
			return errors.Join(unlessRefusal(err), p.giveUp(ctx))
		}
	}
}

// command begins the next round.
func (p *player) command(ctx context.Context, verb job.Verb) error {
	p.hold()
	return p.stack.client.Ask(ctx, p.jobID(), job.CommandReceived{
		Verb: verb, Fresh: verb == job.Retry && p.order.fresh,
	})
}

// unlessRefusal is nil for an answer that a daemon may give to a request for a target that was tampered with.
func unlessRefusal(err error) error {
	switch job.KindOf(err) {
	case job.Internal, job.Unavailable, job.Timeout, job.Cancelled:
		return err
	default:
		return nil
	}
}

// next chooses the command that follows; false if the job has ended for good.
func (p *player) next(r report.Report, retried *bool) (job.Verb, bool) {
	switch {
	case r.Status == job.WaitingCutover && r.Round < p.order.rounds-1:
		return job.Sync, true
	case r.Status == job.WaitingCutover:
		return job.CutoverNow, true
	case r.Status == job.StatusCompleted || *retried:
		return "", false
	}
	*retried = true
	if p.order.repaired {
		for _, t := range p.targets {
			t.repair()
		}
	}
	return job.Retry, true
}

// end notes how the job ended.
func (p *player) end(r report.Report) {
	p.out.completed = r.Status == job.StatusCompleted
	p.out.reason = string(r.Status)
	if r.Error != nil {
		p.out.reason += fmt.Sprintf(": %s: %s", r.Error.Code, p.plain(r.Error.Message))
	}
	for _, t := range p.targets {
		t.repair()
	}
}

// plain takes out of a text what differs from run to run, and cuts it.
func (p *player) plain(text string) string {
	text = strings.ReplaceAll(text, p.stack.dir, "")
	text = strings.ReplaceAll(text, p.vm.name, "VM")
	if id := p.jobID(); id != "" {
		text = strings.ReplaceAll(text, string(id), "JOB")
	}
	text = strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '\n' {
			return -1
		}
		return r
	}, text)
	return rest.Clip(text)
}

// between does what the plan has between two rounds.
func (p *player) between(ctx context.Context, round int) error {
	for i := range p.steps {
		if s := p.steps[i]; s.when == atBetween && s.round == round {
			p.steps[i].round = 0 // done
			p.do(ctx, s)
		}
	}
	for d := range p.targets {
		for range p.r.IntN(3) {
			if err := p.vm.write(ctx, d, p.r); err != nil {
				return err
			}
		}
	}
	return nil
}

// do carries out an act.
func (p *player) do(ctx context.Context, s step) {
	t := p.targets[s.disk]
	done, ok := t.do(ctx, s.act, p.r)
	if !ok {
		return
	}
	p.score.acted(done.act)
	if done.hit {
		p.out.hit = true
	}
}

// round waits until the round or the job has ended, and tampers meanwhile. was is the report before it. Then, if the
// round was committed, targets are compared.
func (p *player) round(ctx context.Context, was report.Report) (report.Report, error) {
	w := &wait{player: p, was: was, deadline: time.Now().Add(roundTime)}
	if err := child.Until(ctx, pollEvery, roundTime+cancelTime, "the round ends", func() bool {
		return w.look(ctx)
	}); err != nil {
		if ctx.Err() == nil {
			p.score.stall(fmt.Sprintf("seed %d: %s is %s (%s) for ever", p.plan.seed, p.jobID(), w.now.Status,
				w.now.Phase))
			return w.now, errStuck
		}
		return w.now, err
	}
	if w.err != nil {
		return w.now, w.err
	}
	p.learn(w.now)
	return w.now, p.compare(ctx, w.now)
}

// wait is the wait for the end of a round.
type wait struct {
	*player
	was, now  report.Report
	deadline  time.Time // after which the job is cancelled
	troubled  time.Time // since when it tries in vain; zero if it does not
	cancelled bool
	looks     int
	err       error // of the daemon
}

// look looks at the job, and tampers if the moment of a step has come. It is true if the round has ended, or can't be
// watched.
func (w *wait) look(ctx context.Context) bool {
	if w.looks++; !w.eager() && w.looks%4 > 0 {
		return false // nothing depends on the moment
	}
	if w.now, w.err = w.stack.client.Job(ctx, w.jobID()); w.err != nil {
		return job.KindOf(w.err) != job.Timeout
	}
	if settled(w.was, w.now) {
		return true
	}
	w.learn(w.now)
	w.tamper(ctx, w.now)
	if !inTrouble(w.now) {
		w.troubled = time.Time{}
	} else if w.troubled.IsZero() {
		w.troubled = time.Now()
	}
	late := time.Now().After(w.deadline) || !w.troubled.IsZero() && time.Since(w.troubled) > backoffTime
	if late && !w.cancelled {
		w.cancelled = w.stack.client.Command(ctx, w.jobID(), job.Cancel) == nil
	}
	return false
}

// eager says whether something is left to do while the round runs.
func (w *wait) eager() bool {
	return slices.ContainsFunc(w.steps, func(s step) bool {
		return s.when != atBetween && s.round == max(1, w.was.Round, w.now.Round)
	})
}

// settled says whether a round or the job has ended since the report was.
func settled(was, r report.Report) bool {
	ended := r.Status.Terminal() || r.Status == job.WaitingCutover
	return ended && len(r.Phases) > len(was.Phases)
}

// inTrouble says whether the job tries something again.
func inTrouble(r report.Report) bool {
	for _, d := range r.Disks {
		if d.Status == job.DiskBackoff {
			return true
		}
	}
	return r.Status == job.Running && r.Error != nil
}

func (p *player) learn(r report.Report) {
	for i, t := range p.targets {
		if i < len(r.Disks) && r.Disks[i].Target != "" {
			t.learn(r.Disks[i].Target)
		}
	}
}

// giveUp cancels a job that waits, so that its VM and its targets are free.
func (p *player) giveUp(ctx context.Context) error {
	if err := p.stack.client.Command(ctx, p.jobID(), job.Cancel); err != nil && job.KindOf(err) != job.Conflict {
		return err
	}
	return child.Until(ctx, pollEvery, cancelTime, "the job is cancelled", func() bool {
		r, err := p.stack.client.Job(ctx, p.jobID())
		return err == nil && r.Status.Terminal()
	})
}
