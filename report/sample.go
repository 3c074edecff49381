package report

import "time"

// Sample is how fast bytes moved at one moment, or on average over one step of a Series.
type Sample struct {
	At time.Time // the begin of the step, UTC
	// of a job; 0 in a gap, and for all jobs together
	Round            int
	BytesTransferred int64
	Jobs             int      // of all jobs together: those that copied
	BytesPerSecond   *float64 // nil in a gap, and while nothing moved
	Load             *Load    // nil in a gap
}

// Series is how fast bytes moved over time, oldest first. A time without samples has one Sample, whose speed and load
// are nil, at its begin.
type Series struct {
	Step    time.Duration // between two samples without a gap
	Samples []Sample
}
