package nbd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/vmferry/vmferry/job"
)

// faults collects the ranges that could not be read or written after all retries. It is safe for several threads.
type faults struct {
	mu    sync.Mutex
	bad   job.Extents
	first error
}

// add records a bad range. It returns an error once there are so many that the copy should give up.
func (f *faults) add(pr plannedRange, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bad = append(f.bad, job.Extent{Offset: pr.off, Length: pr.n}).Merge(0)
	if f.first == nil {
		f.first = err
	}
	if len(f.bad) > mostBadRanges || f.bad.Sum() > mostBadBytes {
		return fmt.Errorf("given up, too much has failed: %w", f.verdict())
	}
	return nil
}

func (f *faults) ranges() job.Extents {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append(job.Extents(nil), f.bad...)
}

// err is nil if nothing is bad.
func (f *faults) err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.verdict()
}

func (f *faults) verdict() error {
	if len(f.bad) == 0 {
		return nil
	}
	return &job.Error{
		Op: "copy all ranges", Kind: kindOf(f.first),
		Err: fmt.Errorf("%d bytes failed again and again, at %s: %w", f.bad.Sum(), listed(f.bad), f.first),
		Next: "Mend the disk or its server, then run the same copy again. Everything else was copied: " +
			"with a checkpoint only these ranges are copied",
	}
}

// listed names the first ranges of x.
func listed(x job.Extents) string {
	var some []string
	for _, e := range x[:min(shownRanges, len(x))] {
		some = append(some, e.String())
	}
	if more := len(x) - len(some); more > 0 {
		some = append(some, fmt.Sprintf("and %d more ranges", more))
	}
	return strings.Join(some, ", ")
}

// kindOf is the kind that fail gives an error.
func kindOf(err error) job.Kind { return job.KindOf(fail("", err)) }

// worthRetrying says whether the same request may succeed a moment later, or in smaller parts.
func worthRetrying(err error) bool {
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok || isLost(err) {
		return false
	}
	switch errno {
	case syscall.EIO, syscall.ETIMEDOUT, syscall.EAGAIN, syscall.ENOMEM, syscall.EINVAL, syscall.EINTR:
		return true
	default:
		return false
	}
}

// retry is a planned range that is tried again, not before at.
type retry struct {
	plannedRange
	at time.Time
}

// retries are the planned ranges that failed and wait for their next try.
type retries []retry

// due removes and returns a range that may be tried now.
func (r *retries) due(now time.Time) (plannedRange, bool) {
	for i, a := range *r {
		if !now.Before(a.at) {
			*r = slices.Delete(*r, i, i+1)
			return a.plannedRange, true
		}
	}
	return plannedRange{}, false
}

// next is the time when the first retry is due; zero if there is none.
func (r *retries) next() (at time.Time) {
	for i, a := range *r {
		if i == 0 || a.at.Before(at) {
			at = a.at
		}
	}
	return at
}

// again says how a planned range that failed is tried again: first as a whole, then in smaller and smaller parts, so
// that in the end only bad bytes are left. nil means that the range is bad.
func again(pr plannedRange, block int64, now time.Time) []retry {
	pr.tries++
	switch {
	case pr.tries < wholeTries:
		return []retry{{pr, now.Add(retryPause)}}
	case pr.n > mediumPart:
		return parts(pr, mediumPart, now.Add(retryPause))
	case pr.n > max(block, smallPart):
		return parts(pr, max(block, smallPart), now.Add(retryPause))
	case pr.tries < smallTries:
		return []retry{{pr, now.Add(retryLastPause)}}
	default:
		return nil
	}
}

// parts cuts a planned range at multiples of n. Each part counts as tried once as a whole.
func parts(pr plannedRange, n int64, at time.Time) (out []retry) {
	pr.tries = wholeTries - 1
	for pr.n > 0 {
		part := pr
		part.n = min(pr.n, n-pr.off%n)
		out = append(out, retry{part, at})
		pr.off, pr.n = pr.off+part.n, pr.n-part.n
	}
	return out
}
