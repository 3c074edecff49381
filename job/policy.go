package job

import (
	"fmt"
	"hash/fnv"
	"time"
)

// Policy says how often and how soon something that failed is tried again.
type Policy struct {
	First  time.Duration // pause before the first retry
	Most   time.Duration // no pause is longer
	Budget int           // failures in a row, without progress between them, that are forgiven
}

// The policies. A disk that fails has lost little, because it goes on where it was: it comes back at once and has
// patience for a vCenter or target that restarts. A step of the job itself asks the vCenter, which needs longer.
func diskPolicy() Policy {
	return Policy{First: 500 * time.Millisecond, Most: 30 * time.Second, Budget: 10}
}
func stepPolicy() Policy { return Policy{First: time.Second, Most: time.Minute, Budget: 8} }

// progressThatCounts is how many new bytes an attempt must have brought to start the budget anew.
const progressThatCounts = 64 << 20

// Pause is the time to wait after that many failures in a row (from 1): doubled each time up to Most, and spread over
// its upper half by what is hashed from who, so that what failed together does not return together.
func (p Policy) Pause(failures int, who string) time.Duration {
	d := p.Most
	if failures < 20 {
		d = min(p.Most, p.First<<(max(1, failures)-1))
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s %d", who, failures) // a hash takes everything
	return d/2 + time.Duration(h.Sum64()%uint64(d/2+1))
}
