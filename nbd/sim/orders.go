package sim

import (
	"fmt"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/job"
)

// orders are the faults that were asked for, and how far each has counted.
type orders struct {
	mu   sync.Mutex
	list []*order
}

type order struct {
	Fault
	seen, done int
}

// due counts one event, and says whether the fault happens now.
func (o *order) due() bool {
	o.seen++
	n := o.seen - o.After
	if n <= 0 || o.Every > 1 && n%o.Every != 0 || o.Count > 0 && o.done >= o.Count {
		return false
	}
	o.done++
	return true
}

func (o *orders) set(faults []Fault) error {
	list := make([]*order, 0, len(faults))
	for _, f := range faults {
		if !slices.ContainsFunc(FaultKinds(), func(h FaultHelp) bool { return h.Kind == f.Kind }) {
			return job.Errorf("order a fault", job.Invalid, "", "there is no fault %q", f.Kind)
		}
		if err := f.check(); err != nil {
			return &job.Error{Op: "order a fault", Kind: job.Invalid, Err: fmt.Errorf("%s: %w", f, err)}
		}
		f.At = f.At.Merge(0)
		list = append(list, &order{Fault: f})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = list
	return nil
}

func (o *orders) faults() []Fault {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]Fault, 0, len(o.list))
	for _, f := range o.list {
		out = append(out, f.Fault)
	}
	return out
}

// connection chooses the faults of one that was just accepted.
func (o *orders) connection() chosen {
	return o.choose(func(f *Fault) bool { return !f.ofRequests() })
}

// request chooses the faults of one that was just read.
func (o *orders) request(command Command, off, n int64) chosen {
	return o.choose(func(f *Fault) bool {
		return f.ofRequests() && f.concerns(command) &&
			(f.At == nil || len(f.At.Within(job.Extents{{Offset: off, Length: n}})) > 0)
	})
}

func (o *orders) choose(matches func(*Fault) bool) (out chosen) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.list {
		if matches(&f.Fault) && f.due() {
			out = append(out, f.Fault)
		}
	}
	return out
}

// concerns says whether a fault can happen to a command.
func (f *Fault) concerns(c Command) bool {
	if f.Op != "" && f.Op != c {
		return false
	}
	switch f.Kind {
	case FaultErrorLate, FaultHalf, FaultNothing, FaultOutside, FaultHuge, FaultOverlap, FaultShuffle, FaultFlipRead:
		return c == Read
	case FaultFlipWritten:
		return c == Write
	case FaultFlushLie:
		return c != Read && c != Status
	case FaultTrimGarbage:
		return c == Trim
	case FaultStatusEmpty, FaultStatusZero, FaultStatusLong, FaultStatusOdd, FaultStatusOther, FaultStatusNone,
		FaultStatusHole:
		return c == Status
	default:
		return true
	}
}

// chosen are the faults of one connection or request.
type chosen []Fault

func (c chosen) find(kind FaultKind) (Fault, bool) {
	for _, f := range c {
		if f.Kind == kind {
			return f, true
		}
	}
	return Fault{}, false
}

func (c chosen) has(kind FaultKind) bool {
	_, ok := c.find(kind)
	return ok
}
