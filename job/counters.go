package job

import "time"

// Counters is what one attempt at one disk has done so far. Every field grows only, until the attempt ends. What an
// earlier attempt made durable is counted in Transferred and Skipped from the start, and named again in the Resumed
// fields, so that bytes sent by this attempt = Transferred - ResumedTransferred.
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
	// finished requests on either side, for seeing life where no bytes move
	Requests int64 `json:"requests"`

	SourceWait   time.Duration `json:"source_wait"`   // time in which nothing could go on but for the source
	TargetWait   time.Duration `json:"target_wait"`   // the same for the target
	ThrottleWait time.Duration `json:"throttle_wait"` // the same for a bandwidth limit
}

// Done is what the percent counts.
func (c Counters) Done() int64 { return c.Transferred + c.Skipped }
