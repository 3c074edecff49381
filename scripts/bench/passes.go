package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"time"
)

// runWorkload runs all passes of one workload.
func (b *bench) runWorkload(ctx context.Context, w workload) (u outcome) {
	u.workload = w
	if u.err = b.enoughMemory(w); u.err != nil {
		return u
	}
	r, err := b.newRig(ctx, w.name)
	defer func() { u.err = errors.Join(u.err, r.close()) }()
	if err != nil {
		u.err = err
		return u
	}
	c := w.build(r).against(b.before)
	if r.err != nil {
		u.err = r.err
		b.say("  %v", r.err)
		return u
	}
	u.ours = c.ours.name
	if _, u.err = r.pass(ctx, c, c.ours, true); u.err != nil {
		b.say("  %v", u.err)
		return u
	}
	for _, v := range c.rivals {
		d := r.duel(ctx, c, v)
		if d.err != nil {
			b.say("  %v", d.err)
		}
		u.duels = append(u.duels, d)
	}
	return u
}

// duel runs pairs of passes of our tool and a rival.
func (r *rig) duel(ctx context.Context, c contest, v rival) duel {
	d := duel{rival: v}
	if d.skip == "" {
		d.skip = missing(v.tool)
	}
	if d.skip != "" {
		return d
	}
	if _, d.err = r.pass(ctx, c, v.tool, true); d.err != nil {
		return d
	}
	usual, began := r.b.pairs*max(1, c.times), time.Now()
	for i := 0; d.wants(usual, time.Since(began)); i++ {
		var ours, theirs sample
		if i%2 == 0 {
			ours, theirs, d.err = r.both(ctx, c, c.ours, v.tool)
		} else {
			theirs, ours, d.err = r.both(ctx, c, v.tool, c.ours)
		}
		if d.err != nil {
			return d
		}
		d.ours, d.theirs = append(d.ours, ours), append(d.theirs, theirs)
		r.b.say("  %d: %.2f s, %s %.2f s: %.2f", i+1, ours.wall, v.name, theirs.wall, ours.wall/theirs.wall)
	}
	return d
}

// missing says that a tool is not installed; "" if it is.
func missing(t tool) string {
	program := t.commands[0][0]
	if _, err := exec.LookPath(program); err != nil {
		return "not run: " + program + " is not installed"
	}
	return ""
}

func (r *rig) both(ctx context.Context, c contest, first, second tool) (a, b sample, err error) {
	if a, err = r.pass(ctx, c, first, false); err == nil {
		b, err = r.pass(ctx, c, second, false)
	}
	return a, b, err
}

// pass runs one tool once, and checks the target. first is the pass that is not timed.
func (r *rig) pass(ctx context.Context, c contest, t tool, first bool) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, longPass)
	defer cancel()
	if err := c.target.reset(ctx, first); err != nil {
		return sample{}, fmt.Errorf("prepare the target: %w", err)
	}
	before, err := r.serverCPU()
	if err != nil {
		return sample{}, err
	}
	s, err := together(ctx, t.commands)
	if err != nil {
		return s, fmt.Errorf("%s: %w", t.name, err)
	}
	after, err := r.serverCPU()
	if err != nil {
		return s, err
	}
	s.server = after - before
	if err := c.target.check(ctx, first); err != nil {
		return s, fmt.Errorf("%s: %w", t.name, err)
	}
	return s, nil
}

// serverCPU is the CPU seconds of all servers so far.
func (r *rig) serverCPU() (float64, error) {
	sum := 0.0
	for _, s := range r.servers {
		used, err := s.cpu()
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}
