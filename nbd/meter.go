package nbd

import (
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Meter shows the progress of a copy or a verification. The engine writes it; any goroutine may read it at any time.
// The zero value is ready. Use one for each attempt.
type Meter struct {
	toTransfer, transferred, skipped      atomic.Int64
	resumedTransferred, resumedSkipped    atomic.Int64
	durable, verified, toVerify, requests atomic.Int64
	sourceWait, targetWait, throttleWait  atomic.Int64 // nanoseconds
}

// Counters returns the present numbers. Each of them only grows. They are read one after the other, not at one instant.
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

// raise sets a counter that must never go down.
func raise(n *atomic.Int64, to int64) {
	for {
		old := n.Load()
		if to <= old || n.CompareAndSwap(old, to) {
			return
		}
	}
}
