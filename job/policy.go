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
	Budget int           // failures in a row, without progress between them, that are forgiven; 0: permanent
	AtOnce bool          // the first retry of a row does not pause
}

// Policies say for each kind of failure how an attempt at a disk is followed by the next. A kind that is not listed is
// permanent: nothing gets better by trying. A disk that fails has lost little, because it goes on where it was. So what
// may be over already is tried again at once, and has patience for a vCenter or target that restarts; bytes that can't
// be read or written get a pause first; a full target waits for somebody to make room, about an hour.
func Policies() map[Kind]Policy {
	soon := Policy{First: 500 * time.Millisecond, Most: 30 * time.Second, Budget: 10}
	atOnce := soon
	atOnce.AtOnce = true
	return map[Kind]Policy{
		Unavailable: atOnce, Timeout: atOnce,
		Auth:     atOnce, // a session that expired: an attempt logs in anew
		Internal: atOnce, // our own faults, which may not meet again
		IO:       soon,
		NoSpace:  {First: 10 * time.Second, Most: 2 * time.Minute, Budget: 30},
	}
}

// stepPolicy is for a step of the job itself: it asks the vCenter, which needs longer.
func stepPolicy() Policy { return Policy{First: time.Second, Most: time.Minute, Budget: 8} }

// progressThatCounts is how many new bytes an attempt must have brought to start the budget anew.
const progressThatCounts = 64 << 20

// Pause is the time to wait after that many failures in a row (from 1): doubled each time up to Most, and spread over
// its upper half by what is hashed from who, so that what failed together does not return together. The first is none
// if the policy says at once.
func (p Policy) Pause(failures int, who string) time.Duration {
	if p.AtOnce {
		if failures <= 1 {
			return 0
		}
		failures--
	}
	d := p.Most
	if failures < 20 {
		d = min(p.Most, p.First<<(max(1, failures)-1))
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s %d", who, failures) // a hash takes everything
	return d/2 + time.Duration(h.Sum64()%uint64(d/2+1))
}
