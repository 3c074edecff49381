package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/vmferry/vmferry/job"
)

// kind is what a target is.
type kind string

const (
	onFile   kind = "file"
	onDevice kind = "device"
	onExport kind = "export"
)

func kinds() []kind { return []kind{onFile, onDevice, onExport} }

func verifyModes() []job.VerifyMode {
	return []job.VerifyMode{job.VerifyNone, job.VerifySample, job.VerifyFull}
}

// moment is when something is done.
type moment string

const (
	atWait    moment = "wait"    // the job is queued, or a disk waits for a permit
	atPlan    moment = "plan"    // from preflight until the reads are planned
	atCopy    moment = "copy"    // bytes move
	atPause   moment = "pause"   // the job was paused, and its disks have stopped; it is resumed afterwards
	atVerify  moment = "verify"  // targets are read back
	atCommit  moment = "commit"  // from the commit until the round ends
	atBetween moment = "between" // no round runs
)

// step is one thing that is done to a job or its target at a moment of a round.
type step struct {
	round int // from 1; for atBetween: after that round
	when  moment
	late  time.Duration // after the moment was seen
	part  float64       // of the round's bytes that have moved, for atCopy and atPause
	disk  int
	act   actName  // "" for none
	verb  job.Verb // "" for none
	guest bool     // the guest writes
}

// order is one job of a plan.
type order struct {
	verify   job.VerifyMode
	rounds   int // 1: cut-over auto
	seconds  float64
	adopt    bool
	strict   bool
	other    bool // name the targets by their other names
	steps    []step
	retry    bool // if it fails or is cancelled
	fresh    bool // of that retry
	repaired bool // what was taken away is brought back before that retry
}

// bench is what a plan has for one disk of the first VM: its size and its target.
type bench struct {
	size   int64
	kind   kind
	before string // what is at the target's name: nothing, zeros, garbage; for devices and exports zeros or garbage
	named  string // how the other name leads to the target: link, hardlink, dots
	silent bool   // the job names no target; files only
}

// plan is what is done with one seed.
type plan struct {
	seed    uint64
	names   []string // of the VMs: one, or two
	benches []bench  // one for each disk
	orders  []order  // one after the other
	peer    *peer    // what the second VM does
}

// peer is a job of the second VM, to the targets of the first under other names.
type peer struct {
	order
	after int // it begins after that round of the first job; 0: at the same time
}

const mib = 1 << 20

// makePlan makes the plan of a seed. Kinds of targets and ways to verify take turns, so that few seeds have them all.
func makePlan(seed uint64, devices bool) plan {
	r := rand.New(rand.NewPCG(seed, 22)) //nolint:gosec // repeatable by its seed
	p := plan{seed: seed}
	disks := 1
	if r.IntN(4) == 0 {
		disks = 2
	}
	silent := r.IntN(6) == 0
	for i := range disks {
		b := bench{
			size: (4 + r.Int64N(9)) * mib, kind: kinds()[(int(seed)+i)%3], before: "zeros",
			named: []string{"link", "hardlink", "dots"}[r.IntN(3)],
		}
		if b.kind == onDevice && !devices || silent {
			b.kind = onFile
		}
		b.silent = silent
		switch n := r.IntN(10); {
		case b.kind == onFile && (silent || n < 6):
			b.before = "nothing"
		case n >= 8:
			b.before = "garbage"
		}
		p.benches = append(p.benches, b)
	}
	p.names = []string{fmt.Sprintf("s%d:x", seed)}
	for i := range 1 + r.IntN(5)/3 {
		p.orders = append(p.orders, makeOrder(r, verifyModes()[(int(seed)/3+i)%3], p.benches))
	}
	if r.IntN(4) == 0 {
		p.names = append(p.names, fmt.Sprintf("s%d_x", seed)) // as a file's name it is the same
		p.peer = &peer{order: makeOrder(r, verifyModes()[r.IntN(3)], nil), after: r.IntN(3)}
		p.peer.rounds, p.peer.retry, p.peer.other = 1, false, true
		p.peer.adopt = r.IntN(2) == 0
	}
	return p
}

// makeOrder makes an order with steps for these targets; without targets it has no steps.
func makeOrder(r *rand.Rand, verify job.VerifyMode, targets []bench) order {
	o := order{
		verify: verify, rounds: 1, seconds: 0.3 + r.Float64(), adopt: r.IntN(3) > 0, strict: r.IntN(8) == 0,
		other: r.IntN(3) == 0, retry: r.IntN(4) > 0, fresh: r.IntN(5) == 0, repaired: r.IntN(4) > 0,
	}
	if r.IntN(3) > 0 {
		o.rounds = 2 + r.IntN(2)
	}
	if len(targets) == 0 {
		return o
	}
	for round := 1; round <= o.rounds; round++ {
		if r.IntN(3) == 0 {
			o.steps = append(o.steps, step{
				round: round, when: atCopy, part: r.Float64(), disk: r.IntN(len(targets)), guest: true,
			})
		}
		if r.IntN(12) == 0 {
			o.steps = append(o.steps, step{
				round: round, when: atCopy, part: r.Float64(), late: lateness(r), verb: job.Cancel,
			})
		}
	}
	for range []int{0, 1, 1, 2, 2, 2, 3, 3}[r.IntN(8)] {
		o.steps = append(o.steps, makeAct(r, o.rounds, targets))
	}
	return o
}

// makeAct chooses an act and its moment.
func makeAct(r *rand.Rand, rounds int, targets []bench) step {
	s := step{round: 1 + r.IntN(rounds), disk: r.IntN(len(targets)), part: r.Float64(), late: lateness(r)}
	s.act = chooseAct(r, targets[s.disk].kind)
	// Rounds after the first and the time between two rounds are where a target has most to lose.
	if rounds > 1 && r.IntN(2) == 0 {
		s.round = 2 + r.IntN(rounds-1)
	}
	moments := []moment{
		atWait, atPlan, atPlan, atCopy, atCopy, atCopy, atPause, atPause, atVerify, atVerify, atCommit,
		atBetween, atBetween, atBetween,
	}
	if s.when = moments[r.IntN(len(moments))]; s.when == atBetween && rounds > 1 {
		s.round = 1 + r.IntN(rounds-1)
	}
	return s
}

func lateness(r *rand.Rand) time.Duration {
	return time.Duration(r.Int64N(int64(150 * time.Millisecond)))
}
