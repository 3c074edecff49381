package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// compare compares all targets with the disks as the round's snapshot froze them, if the job says that they are equal.
func (p *player) compare(ctx context.Context, r report.Report) error {
	rounds, err := p.facts(ctx)
	if err != nil {
		return err
	}
	if r.Status != job.StatusCompleted && r.Status != job.WaitingCutover {
		return nil
	}
	if r.Status == job.StatusCompleted {
		if err := p.vm.check(ctx); err != nil {
			return err
		}
	}
	for i, t := range p.targets {
		want := p.begun[i]
		is, length, rerr := t.read(ctx, r.Disks[i].Target, t.size)
		if rerr == nil && length >= t.size && slices.Equal(want, is) && (t.kind != onFile || length == t.size) {
			p.out.verdicts = append(p.out.verdicts, verdict{class: equal})
			continue
		}
		s, err := p.scene(ctx, i, rounds[i])
		if err != nil {
			return err
		}
		v := s.judge(want, is, length, rerr)
		if v.class >= undecided {
			v.why = fmt.Sprintf("%s, round %d, %s: %s", t.kind, r.Round, r.Disks[i].DiskID, v.why)
			p.say("%s: verify %s, %s", v.class, p.order.verify, v.why)
		}
		p.out.verdicts = append(p.out.verdicts, v)
	}
	return nil
}

// scene gathers what is known of the target of that index.
func (p *player) scene(ctx context.Context, i int, rounds []round) (s scene, err error) {
	t := p.targets[i]
	s = scene{kind: t.kind, size: t.size, rounds: rounds, touches: t.all()}
	s.touches = slices.DeleteFunc(s.touches, func(x touch) bool { return x.only != "" && x.only != p.name(t) })
	if s.others, err = p.others(ctx, i); err != nil {
		return s, err
	}
	if t.kind == onExport {
		s.reads, err = readsOf(t.log)
	}
	return s, err
}

// facts returns the rounds of each disk over all jobs of the VM.
func (p *player) facts(ctx context.Context) ([][]round, error) {
	out := make([][]round, len(p.targets))
	p.stage.mu.Lock()
	all := slices.Clone(p.players)
	p.stage.mu.Unlock()
	for _, pl := range all {
		if pl.vm != p.vm || pl.jobID() == "" {
			continue
		}
		entries, err := p.stack.client.Events(ctx, pl.jobID())
		if err != nil {
			return nil, err
		}
		for i := range p.targets {
			rounds, err := roundsOf(pl.jobID(), pl.order.verify, diskID(i), entries)
			if err != nil {
				return nil, err
			}
			for j := range rounds {
				n := rounds[j].number
				if _, ok := pl.frozen[n]; !ok {
					pl.frozen[n] = pl.begin // a new round; all players of a VM play one after the other
				}
				rounds[j].moved, rounds[j].known = p.vm.moved(i, pl.frozen[n], rounds[j].mode, rounds[j].total)
			}
			out[i] = append(out[i], rounds...)
		}
	}
	return out, nil
}

// others returns the attempts of the jobs of other VMs at a target.
func (p *player) others(ctx context.Context, disk int) (all []span, err error) {
	p.stage.mu.Lock()
	players := slices.Clone(p.players)
	p.stage.mu.Unlock()
	for _, pl := range players {
		if pl.vm == p.vm || pl.jobID() == "" {
			continue
		}
		entries, err := p.stack.client.Events(ctx, pl.jobID())
		if err != nil {
			return nil, err
		}
		rounds, err := roundsOf(pl.jobID(), pl.order.verify, diskID(disk), entries)
		if err != nil {
			return nil, err
		}
		for _, r := range rounds {
			all = append(all, r.attempts...)
		}
	}
	return all, nil
}
