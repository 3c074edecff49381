package actors

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"
	"github.com/asynkron/protoactor-go/scheduler"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
	"github.com/vmferry/vmferry/report"
)

// poller is the Watcher of an older VMA. It asks for each job in turn, as package report says, with at most
// report.PollAtOnce polls under way.
type poller struct {
	*deps
	node       *watchedNode
	aggregator *actor.PID
	asked      []job.ID // the jobs that it begins with
	jobs       map[job.ID]*polledJob
	under      int // polls under way
	failures   int // polls of the node in a row
	heard      time.Time
	ticks      scheduler.CancelFunc
}

// polledJob is one job of the node.
type polledJob struct {
	id      job.ID
	poll    report.Poll
	builder *report.PolledBuilder
	due     time.Time // of the next poll; zero for none
	asking  *work
	ended   time.Time
}

type (
	// look begins the polls that are due.
	look struct{ noDeadLetterLog }
	// polled is the result of a poll.
	polled struct {
		noDeadLetterLog
		of     *polledJob
		answer report.Polled
		found  bool
		err    error
	}
)

const (
	lookEvery = 250 * time.Millisecond
	// awayAfter is how long a node is not heard before it is unreachable: the time of report.PollErrors polls.
	awayAfter = (report.PollErrors - 1) * report.PollEvery
)

func newPoller(d *deps, n *watchedNode, aggregator *actor.PID, asked []job.ID, last []report.Report) *poller {
	p := &poller{deps: d, node: n, aggregator: aggregator, asked: asked, jobs: map[job.ID]*polledJob{}}
	for _, r := range last {
		was := r.AsItWas()
		k := &polledJob{
			id: r.JobID, poll: report.ResumePoll(r), builder: report.NewPolledBuilder(r.JobID, &was, p.now()),
		}
		if k.poll.Ended {
			k.ended = p.now()
			if r.EndedAt != nil {
				k.ended = *r.EndedAt
			}
		} else {
			k.due = p.now()
		}
		p.jobs[r.JobID] = k
	}
	return p
}

func (p *poller) Receive(c actor.Context) {
	defer keepStack()
	switch m := c.Message().(type) {
	case *actor.Started:
		timer := scheduler.NewTimerScheduler(c.ActorSystem().Root)
		p.ticks = timer.SendRepeatedly(lookEvery, lookEvery, c.Self(), look{})
		for _, id := range p.asked {
			if p.jobs[id] == nil {
				p.begin(c, id)
			}
		}
		p.look(c)
	case look:
		p.look(c)
	case polled:
		p.take(c, m)
	case messages.WatchJob:
		if k := p.jobs[m.ID]; k == nil || k.poll.Ended || k.poll.Status == job.Lost {
			p.begin(c, m.ID)
		}
		c.Respond(messages.Answer{})
		p.look(c)
	case messages.UnwatchJob:
		p.drop(c, m.ID)
		c.Respond(messages.Answer{})
	case *actor.Stopping:
		if p.ticks != nil {
			p.ticks()
		}
		for _, k := range p.jobs {
			k.asking.halt()
		}
	}
}

// begin begins to ask for a job: it is shown at once, as one that has not started.
func (p *poller) begin(c actor.Context, id job.ID) {
	if k := p.jobs[id]; k != nil {
		k.asking.stop()
	}
	k := &polledJob{id: id, builder: report.NewPolledBuilder(id, nil, p.now())}
	p.jobs[id] = k
	p.apply(c, k, report.PollBegun{})
	p.show(c, k)
}

func (p *poller) drop(c actor.Context, id job.ID) {
	if k := p.jobs[id]; k != nil {
		k.asking.stop()
	}
	delete(p.jobs, id)
	c.Send(p.aggregator, messages.Unwatched{Node: p.node.Name, ID: id})
}

// look begins the polls that are due, the longest first, and drops the jobs that ended long ago. One that the
// configuration names is kept: the next start would ask for it as for a new one.
func (p *poller) look(c actor.Context) {
	now := p.now()
	var due []*polledJob
	for id, k := range p.jobs {
		if k.poll.Ended && now.Sub(k.ended) > p.externalKeep && !slices.Contains(p.node.Jobs, id) {
			p.drop(c, id)
		}
		if !k.due.IsZero() && !k.due.After(now) && k.asking == nil {
			due = append(due, k)
		}
	}
	slices.SortFunc(due, func(a, b *polledJob) int { return a.due.Compare(b.due) })
	for _, k := range due {
		if p.under >= report.PollAtOnce {
			return
		}
		p.under++
		k.due = time.Time{}
		k.asking = begin(c, p.life, func(ctx context.Context) any {
			ctx, cancel := context.WithTimeout(ctx, report.PollTimeout)
			defer cancel()
			m := polled{of: k}
			m.answer, m.found, m.err = p.node.Old.Poll(ctx, k.id)
			if m.err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				m.err = job.Errorf("", job.Timeout, "", "no answer within %v", report.PollTimeout)
			}
			return m
		}, func(err error) any { return polled{of: k, err: err} })
	}
}

// take takes the result of a poll.
func (p *poller) take(c actor.Context, m polled) {
	p.under--
	m.of.asking = nil
	if p.jobs[m.of.id] == m.of {
		p.judge(c, m)
	}
	p.look(c)
}

func (p *poller) judge(c actor.Context, m polled) {
	now := p.now()
	if m.err == nil && m.found {
		if err := m.answer.Check(); err != nil {
			m.err = err
		}
	}
	if m.err != nil {
		p.failures++
		if p.failures >= report.PollErrors && now.Sub(p.heard) >= awayAfter { // else it answers for other jobs
			if p.node.health.Load().State != NodeUnreachable {
				p.log.Warn("a node is unreachable; its jobs go on there", "node", p.node.Name, "err", m.err)
			}
			p.node.seen(NodeUnreachable, p.heard, now, reasonOf(m.err))
		}
		p.apply(c, m.of, report.PollFailed{Reason: reasonOf(m.err)})
		return
	}
	back := p.failures > 0
	p.failures, p.heard = 0, now
	if p.node.health.Load().State == NodeUnreachable {
		p.log.Info("a node is reachable again", "node", p.node.Name)
	}
	p.node.seen(NodeConnected, now, now, "")
	if m.found {
		p.apply(c, m.of, report.PollAnswered{Answer: m.answer})
	} else {
		p.apply(c, m.of, report.PollUnknown{})
	}
	if !back {
		return
	}
	for _, k := range p.jobs {
		if k != m.of && k.asking == nil {
			p.apply(c, k, report.PollReachable{})
		}
	}
}

// apply lets a job go on by an event, and carries out what follows.
func (p *poller) apply(c actor.Context, k *polledJob, ev report.PollEvent) {
	now := p.now()
	was := k.poll.Status
	var actions []report.PollAction
	k.poll, actions = k.poll.Apply(ev, now)
	if k.poll.Ended && k.ended.IsZero() {
		k.ended, k.due = now, time.Time{}
	}
	for _, a := range actions {
		switch a := a.(type) {
		case report.PollAt:
			k.due = a.At
		case report.TakeNumbers:
			if err := k.builder.Take(a, now); err != nil {
				p.log.Warn("an answer of a node is not used", "node", p.node.Name, "job_id", k.id, "err", err)
			}
		case report.ShowPoll:
			p.show(c, k)
		}
	}
	if k.poll.Status != was && k.poll.Status != "" {
		p.log.Warn("a watched job is not seen", "node", p.node.Name, "job_id", k.id, "status", string(k.poll.Status),
			"reason", k.poll.Reason)
	}
}

func (p *poller) show(c actor.Context, k *polledJob) {
	now := p.now()
	c.Send(p.aggregator, messages.Watched{
		Report: k.builder.Report(now).At(p.node.Name, report.LegacyNode, "", k.poll.Sight(), now),
	})
}
