package cli

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// receipt says what was copied, to check the target later. b3sum of the source prints the same digest, and so does
// b3sum of the target's first bytes_capacity bytes.
type receipt struct {
	Source        string         `json:"source"` // without secrets; the target likewise
	Target        string         `json:"target"`
	BytesCapacity int64          `json:"bytes_capacity"`
	BLAKE3        string         `json:"blake3"`
	Digest        *string        `json:"digest"` // as in copyReport
	Verified      bool           `json:"verified"`
	Verify        job.VerifyMode `json:"verify"`
	StartedAt     time.Time      `json:"started_at"`
	FinishedAt    time.Time      `json:"finished_at"`
	Version       string         `json:"vmferry_version"`
}

// writeReceipt writes the receipt of a disk that is copied and verified.
func writeReceipt(d *copyDisk, out *copyOutcome) error {
	const nothing = "everything is on the target, but there is no receipt: "
	r := copyResult(out)
	if r.BLAKE3 == nil {
		return job.Errorf("", job.Conflict, "Copy again, without an old checkpoint and without --request-size", nothing+
			"the copy went on from a checkpoint that had no BLAKE3 digest, or its requests were too small for one")
	}
	text, err := json.MarshalIndent(receipt{
		Source: nbd.Redact(d.task.Source), Target: nbd.Redact(d.target), BytesCapacity: r.BytesCapacity,
		BLAKE3: *r.BLAKE3, Digest: r.Digest, Verified: r.Verified, Verify: d.verify,
		StartedAt: out.began.UTC(), FinishedAt: out.ended.UTC(), Version: version,
	}, "", "  ")
	if err == nil {
		err = nbd.WriteDurably(d.receipt, append(text, '\n'))
	}
	if err != nil {
		return job.SystemError("", "", fmt.Errorf(nothing+"%w", err))
	}
	return nil
}
