package job

import (
	"fmt"
	"hash/fnv"
	"time"
)

// Policy says how often and how soon an attempt or a step that failed is tried again.
type Policy struct {
	First  time.Duration // pause before the first retry
	Most   time.Duration // no pause is longer
	Budget int           // failures in a row without progress that are retried; 0: none is
	AtOnce bool          // the first retry in a row has no pause before it
}

// Policies say for each kind of failure how the next attempt at a disk follows; a peer that is unavailable is waited
// for instead (waitPolicy). A kind that is not listed is permanent:
// no attempt follows. An attempt goes on from what is durable, so a retry costs little. A failure that may be over
// already is retried at once, and its budget lasts while a vCenter or a target restarts. Bytes that can't be read or
// written are retried after a pause. A full target is retried for about an hour, so that the operator can make room.
func Policies() map[Kind]Policy {
	soon := Policy{First: 500 * time.Millisecond, Most: 30 * time.Second, Budget: 10}
	atOnce := soon
	atOnce.AtOnce = true
	return map[Kind]Policy{
		Unavailable: atOnce, Timeout: atOnce,
		Auth:     atOnce, // a session that expired: the next attempt logs in again
		Internal: atOnce, // a fault of vmferry, which may depend on timing
		IO:       soon,
		NoSpace:  {First: 10 * time.Second, Most: 2 * time.Minute, Budget: 30},
	}
}

// stepPolicy is for a step of the job itself. Its pauses are longer: a vCenter that is down needs longer to come back.
func stepPolicy() Policy { return Policy{First: time.Second, Most: time.Minute, Budget: 8} }

// countedProgress is how many bytes an attempt must make durable, beyond those of the attempt before it, so that its
// failure counts as the first in a row.
const countedProgress = 64 << 20

// Pause is the time to wait after that many failures in a row (from 1). It doubles with each failure up to Most, and a
// hash of seed picks a point in its upper half, so that disks that failed together are not retried together. With
// AtOnce the first pause is 0.
func (p Policy) Pause(failures int, seed string) time.Duration {
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
	_, _ = fmt.Fprintf(h, "%s %d", seed, failures) // a hash takes everything
	return d/2 + time.Duration(h.Sum64()%uint64(d/2+1))
}
