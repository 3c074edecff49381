package sim

import (
	"fmt"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/job"
)

// faultSet holds the faults that are set, with their counts. It is safe for concurrent use.
type faultSet struct {
	mu   sync.Mutex
	list []*countedFault
}

type countedFault struct {
	Fault
	seen, done int // connections or requests that matched, and those that the fault was chosen for
}

// due counts one connection or request, and says whether the fault applies to it.
func (o *countedFault) due() bool {
	o.seen++
	n := o.seen - o.After
	if n <= 0 || o.Every > 1 && n%o.Every != 0 || o.Count > 0 && o.done >= o.Count {
		return false
	}
	o.done++
	return true
}

func (o *faultSet) set(faults []Fault) error {
	list := make([]*countedFault, 0, len(faults))
	const op = "set faults"
	for _, f := range faults {
		if !slices.ContainsFunc(FaultKinds(), func(h FaultHelp) bool { return h.Kind == f.Kind }) {
			return job.Errorf(op, job.Invalid, "", "there is no fault %q", f.Kind)
		}
		if err := f.check(); err != nil {
			return &job.Error{Op: op, Kind: job.Invalid, Err: fmt.Errorf("%s: %w", f, err)}
		}
		f.At = f.At.Merge(0)
		list = append(list, &countedFault{Fault: f})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = list
	return nil
}

func (o *faultSet) all() []Fault {
	o.mu.Lock()
	defer o.mu.Unlock()
	out := make([]Fault, 0, len(o.list))
	for _, f := range o.list {
		out = append(out, f.Fault)
	}
	return out
}

// forConnection chooses the faults of a connection that was accepted.
func (o *faultSet) forConnection() chosen {
	return o.choose(func(f *Fault) bool { return !f.ofRequests() })
}

// forRequest chooses the faults of a request that was read.
func (o *faultSet) forRequest(command Command, off, n int64) chosen {
	return o.choose(func(f *Fault) bool {
		return f.ofRequests() && f.concerns(command) &&
			(f.At == nil || len(f.At.Within(job.Extents{{Offset: off, Length: n}})) > 0)
	})
}

func (o *faultSet) choose(matches func(*Fault) bool) (out chosen) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, f := range o.list {
		if matches(&f.Fault) && f.due() {
			out = append(out, f.Fault)
		}
	}
	return out
}

// concerns says whether a fault can apply to a command.
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
