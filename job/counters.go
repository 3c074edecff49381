package job

import "time"

// Counters is what one attempt at one disk has done so far. Fields only grow until the attempt ends. Transferred and
// Skipped include from the start what earlier attempts made durable; the Resumed fields repeat that share. So the bytes
// sent by this attempt are Transferred - ResumedTransferred.
type Counters struct {
	// bytes this round must handle: the sum of its extents, frozen when it starts
	ToTransfer         int64 `json:"to_transfer"`
	Transferred        int64 `json:"transferred"`         // bytes that the target acknowledged
	Skipped            int64 `json:"skipped"`             // bytes found zero while reading, or already zero there
	ResumedTransferred int64 `json:"resumed_transferred"` // of Transferred: durable before this attempt began
	ResumedSkipped     int64 `json:"resumed_skipped"`     // of Skipped: durable before this attempt began
	Durable            int64 `json:"durable"`             // bytes that are flushed and recorded in the checkpoint
	Verified           int64 `json:"verified"`            // bytes read back and compared
	ToVerify           int64 `json:"to_verify"`           // bytes that verification will read back; 0 while unknown
	// finished requests to source and target: they grow also while no byte counts
	Requests int64 `json:"requests"`

	SourceWait   time.Duration `json:"source_wait"`   // time in which all work waited for the source
	TargetWait   time.Duration `json:"target_wait"`   // time in which all work waited for the target
	ThrottleWait time.Duration `json:"throttle_wait"` // time in which all work waited for a bandwidth limit
	// time since the copy began, of which the waits are parts; 0 if it is not known
	Elapsed time.Duration `json:"elapsed,omitempty"`
}

// Waited is for how long the work of one or more attempts waited, and for what.
type Waited struct {
	Source   time.Duration `json:"source,omitempty"`
	Target   time.Duration `json:"target,omitempty"`
	Throttle time.Duration `json:"throttle,omitempty"` // for a bandwidth limit
	Of       time.Duration `json:"of,omitempty"`       // the time in which they worked
}

// Waited is the part of the counters that says what the attempt waited for. It is zero where Elapsed is not known, as
// in events of versions that did not count it: their states were stored without it, and shares of nothing tell nothing.
func (c Counters) Waited() Waited {
	if c.Elapsed == 0 {
		return Waited{}
	}
	return Waited{c.SourceWait, c.TargetWait, c.ThrottleWait, c.Elapsed}
}

// And adds waits.
func (w Waited) And(v Waited) Waited {
	return Waited{w.Source + v.Source, w.Target + v.Target, w.Throttle + v.Throttle, w.Of + v.Of}
}

// Unbegun is the counters of an attempt that ended before it moved a byte, if c are those of the attempt before it.
func (c Counters) Unbegun() Counters {
	c.ResumedTransferred, c.ResumedSkipped = c.Transferred, c.Skipped
	c.SourceWait, c.TargetWait, c.ThrottleWait, c.Elapsed = 0, 0, 0, 0
	return c
}

// Done is the number of bytes that the percent is computed from.
func (c Counters) Done() int64 { return c.Transferred + c.Skipped }
