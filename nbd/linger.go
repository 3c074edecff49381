package nbd

import (
	"time"

	"golang.org/x/sys/unix"
)

// linger is how a thread waits before it sleeps: for a moment it asks again and again whether something has come, and
// lets others have the processor in between. A near server needs about as long for an answer as a processor needs to
// fall asleep and wake; and one that is not interrupted for each part of an answer goes on to the next (ADR 17). It is
// not safe for several threads.
type linger struct {
	ready func([]unix.PollFd) (int, error)
	yield func() // lets others have the processor
	clock func() time.Time

	failed int           // looks and waits without one since the last that saw something
	turn   time.Duration // that others have the processor for, as a moving mean
	hold   time.Time     // no look before
}

func newLinger() linger {
	return linger{ready: func(fds []unix.PollFd) (int, error) {
		return unix.Poll(fds, 0)
	}, yield: giveProcessor, clock: time.Now}
}

// giveProcessor is no call that Go's scheduler hears of: it would take what it gives to the threads from them.
func giveProcessor() { _, _, _ = unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0) }

// sees says whether something came within the moment that begins now; then fds tell what.
func (k *linger) sees(fds []unix.PollFd, now time.Time) bool {
	if now.Before(k.hold) {
		return false
	}
	if k.failed++; k.failed > lingerTries && k.failed%lingerSeldom != 0 {
		return false
	}
	for at := now; ; {
		if n, err := k.ready(fds); n > 0 || err != nil {
			k.failed = 0
			return n > 0
		}
		if at.Sub(now) >= lingerFor || at.Before(k.hold) {
			return false
		}
		k.yield()
		next := k.clock()
		away := next.Sub(at)
		if k.turn += (away - k.turn) / lingerMean; k.turn > longTurn {
			// Somebody computes: who sleeps gets the processor back sooner than who gave it away.
			k.turn, k.hold = 0, next.Add(lingerPrice*away)
		}
		at = next
	}
}
