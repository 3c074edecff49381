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
}

// Done is the number of bytes that the percent is computed from.
func (c Counters) Done() int64 { return c.Transferred + c.Skipped }
