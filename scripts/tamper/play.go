package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"

	"github.com/vmferry/vmferry/job"
)

// stage is where one seed is played.
type stage struct {
	stack   *stack
	score   *score
	plan    plan
	targets []*target
	second  chan error // the end of the second VM's job; nil before it begins

	mu      sync.Mutex
	players []*player
}

// playSeed plays a plan. Its error is of the rehearsal itself; what a job does goes into the score.
func playSeed(ctx context.Context, st *stack, sc *score, p plan) (err error) {
	s := &stage{stack: st, score: sc, plan: p}
	defer func() {
		for _, t := range s.targets {
			err = errors.Join(err, t.remove())
		}
	}()
	for d, b := range p.benches {
		t, err := makeTarget(ctx, st.at(filepath.Join("t", fmt.Sprint(p.seed), fmt.Sprint(d))), b, contentSeed(p, 9, d))
		if t != nil {
			s.targets = append(s.targets, t)
		}
		if err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err = s.play(ctx); err != nil {
		cancel() // the second VM's job
	}
	if s.second != nil {
		err = errors.Join(err, <-s.second)
	}
	if errors.Is(err, errStuck) {
		return nil
	}
	return err
}

// play plays the orders of the first VM one after the other. Between them the second VM begins.
func (s *stage) play(ctx context.Context) error {
	first := newMachine(s.stack, s.plan, 0)
	for i, o := range s.plan.orders {
		pl := s.player(first, o, uint64(10+i))
		pl.after = func(round int) {
			if s.plan.peer != nil && i == 0 && round >= s.plan.peer.after {
				s.beginSecond(ctx)
			}
		}
		if err := pl.play(ctx); err != nil {
			return err
		}
	}
	s.beginSecond(ctx)
	return nil
}

// beginSecond begins the job of the second VM, if there is one and it has not begun.
func (s *stage) beginSecond(ctx context.Context) {
	if s.plan.peer == nil || s.second != nil {
		return
	}
	s.second = make(chan error, 1)
	pl := s.player(newMachine(s.stack, s.plan, 1), s.plan.peer.order, 2)
	go func() { s.second <- pl.play(ctx) }()
}

// player plays one order: a job of one VM.
type player struct {
	*stage
	vm    *machine
	order order
	r     *rand.Rand
	after func(round int) // called when a round has ended, and with 0 when the job is submitted; may be nil

	mu     sync.Mutex
	id     job.ID
	frozen map[int]int // by the number of a round: its index in vdisk.frozen

	steps []step
	begun [][]byte // the bytes of the disks when the round began
	begin int      // index of it in vdisk.frozen
	out   result
}

// player makes who plays an order. part makes the random choices of each VM its own.
func (s *stage) player(vm *machine, o order, part uint64) *player {
	pl := &player{stage: s, vm: vm, order: o, frozen: map[int]int{}, steps: o.steps}
	pl.r = rand.New(rand.NewPCG(s.plan.seed, part)) //nolint:gosec // repeatable by its seed
	pl.out = result{seed: s.plan.seed, verify: o.verify}
	for _, t := range s.targets {
		pl.out.kinds = append(pl.out.kinds, t.kind)
	}
	s.mu.Lock()
	s.players = append(s.players, pl)
	s.mu.Unlock()
	return pl
}

// jobID is "" before the job is accepted. Other players may call it.
func (p *player) jobID() job.ID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.id
}

func (p *player) say(format string, args ...any) {
	say("seed %d: %s %s: "+format, append([]any{p.plan.seed, p.vm.name, p.jobID()}, args...)...)
}

// spec is what is asked of the daemon.
func (p *player) spec() job.Spec {
	o := p.order
	s := job.Spec{VM: p.vm.name, Mode: job.Auto, Options: job.Options{
		Verify: o.verify, Cutover: job.CutoverAuto, Adopt: o.adopt, Strict: o.strict,
	}}
	if o.rounds > 1 {
		s.Options.Cutover = job.CutoverManual
	}
	var filled int64
	for d, t := range p.targets {
		filled += p.vm.disks[d].filled.Sum()
		if !t.silent {
			s.Targets = append(s.Targets, job.Target{Disk: diskID(d), URI: p.name(t)})
		}
	}
	s.Options.Bandwidth = max(mib/4, int64(float64(filled)/o.seconds))
	return s
}

// name is the name of a target that the job uses; "" for a target that the daemon chooses.
func (p *player) name(t *target) string {
	if p.order.other {
		return t.names[1]
	}
	return t.names[0]
}

// hold notes that a round begins.
func (p *player) hold() {
	p.begun = p.vm.begin()
	p.begin = len(p.vm.disks[0].frozen) - 1
}
