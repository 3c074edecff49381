package nbd

import (
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Meter shows how far a copy or a verification is. The engine writes it, anybody may read it at any time. The zero
// value is ready; use one for each attempt.
type Meter struct {
	toTransfer, transferred, skipped      atomic.Int64
	resumedTransferred, resumedSkipped    atomic.Int64
	durable, verified, toVerify, requests atomic.Int64
	sourceWait, targetWait, throttleWait  atomic.Int64 // nanoseconds
}

// Counters are the numbers as of now. Each of them only grows; they are read one after the other.
func (m *Meter) Counters() job.Counters {
	return job.Counters{
		ToTransfer:         m.toTransfer.Load(),
		Transferred:        m.transferred.Load(),
		Skipped:            m.skipped.Load(),
		ResumedTransferred: m.resumedTransferred.Load(),
		ResumedSkipped:     m.resumedSkipped.Load(),
		Durable:            m.durable.Load(),
		Verified:           m.verified.Load(),
		ToVerify:           m.toVerify.Load(),
		Requests:           m.requests.Load(),
		SourceWait:         time.Duration(m.sourceWait.Load()),
		TargetWait:         time.Duration(m.targetWait.Load()),
		ThrottleWait:       time.Duration(m.throttleWait.Load()),
	}
}

// raise sets a counter that must not fall.
func raise(n *atomic.Int64, to int64) {
	for {
		old := n.Load()
		if to <= old || n.CompareAndSwap(old, to) {
			return
		}
	}
}
