package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/report"
)

// copyReport is the JSON object at the end of the copy of one disk.
type copyReport struct {
	Status           string      `json:"status"` // completed, failed or cancelled
	BytesCapacity    int64       `json:"bytes_capacity"`
	BytesToTransfer  int64       `json:"bytes_to_transfer"`
	BytesTransferred int64       `json:"bytes_transferred"`
	BytesSkipped     int64       `json:"bytes_skipped"`
	BytesResent      int64       `json:"bytes_resent"`
	BytesResumed     int64       `json:"bytes_resumed"`
	DurationSeconds  float64     `json:"duration_seconds"`
	BytesPerSecond   float64     `json:"bytes_per_second"` // of this run, without resumed bytes
	Verified         bool        `json:"verified"`
	BytesVerified    int64       `json:"bytes_verified"`
	Digest           *string     `json:"digest"`     // of what was copied; null if nothing was hashed
	BLAKE3           *string     `json:"blake3"`     // of the whole disk; null without --receipt
	BadRanges        job.Extents `json:"bad_ranges"` // not copied, after all attempts
	Reconnects       int         `json:"reconnects"`
	Load             report.Load `json:"load"`
	Error            *copyError  `json:"error"`
}

type copyError struct {
	Code    job.Kind `json:"code"`
	Message string   `json:"message"`
	Next    string   `json:"next,omitempty"`
}

// copiesReport is the JSON object at the end of the copy of several disks.
type copiesReport struct {
	Status          string       `json:"status"` // failed if any disk failed
	DurationSeconds float64      `json:"duration_seconds"`
	Disks           []diskReport `json:"disks"` // in the order of the arguments
}

type diskReport struct {
	Source string `json:"source"` // without secrets, as the target
	Target string `json:"target"`
	copyReport
}

func copyResult(out *copyOutcome) copyReport {
	r, v := out.result, out.verified
	c := copyReport{
		Status: copyStatus(out.err), DurationSeconds: out.ended.Sub(out.began).Seconds(),
		BytesCapacity: r.Capacity, BytesToTransfer: r.ToTransfer, BytesTransferred: r.Transferred,
		BytesSkipped: r.Skipped, BytesResent: r.Resent, BytesResumed: r.Resumed,
		Verified: out.err == nil && v.Verified > 0, BytesVerified: v.Verified,
		BadRanges: append(job.Extents{}, r.Bad...), Reconnects: r.Reconnects,
	}
	if s := r.Duration.Seconds(); s > 0 {
		c.BytesPerSecond = float64(r.Transferred-r.ResumedTransferred) / s
		share := func(d time.Duration) float64 { return float64(int(1000*min(1, d.Seconds()/s))) / 1000 }
		c.Load = report.Load{Source: share(r.SourceWait), Target: share(r.TargetWait), Throttle: share(r.ThrottleWait)}
	}
	if digest := orDefault(r.Digests.String(), v.Digest); digest != "" {
		c.Digest = &digest
	}
	if r.BLAKE3 != "" {
		c.BLAKE3 = &r.BLAKE3
	}
	if out.err != nil {
		c.Error = &copyError{job.KindOf(out.err), out.err.Error(), job.NextOf(out.err)}
	}
	return c
}

func copyStatus(err error) string {
	switch {
	case err == nil:
		return string(job.StatusCompleted)
	case job.KindOf(err) == job.Cancelled:
		return string(job.StatusCancelled)
	default:
		return string(job.StatusFailed)
	}
}

// failureOf is one error for all disks, which have ended; nil if all are copied. Its kind is that of a disk that
// failed, else Cancelled.
func failureOf(disks []*copyDisk) error {
	var worst error
	var said []string
	for _, d := range disks {
		err := d.outcome().err
		if err == nil {
			continue
		}
		if d.alone {
			return err
		}
		said = append(said, fmt.Sprintf("\n  %s to %s: %v", d.id, nbd.Redact(d.target), err))
		if worst == nil || job.KindOf(worst) == job.Cancelled {
			worst = err
		}
	}
	if worst == nil {
		return nil
	}
	return job.Errorf("", job.KindOf(worst), job.NextOf(worst), "%d of %d disks could not be copied:%s", len(said),
		len(disks), strings.Join(said, ""))
}

// writeReports writes the results of all disks as data, or in words the results of the disks that are copied: the
// others are in the error at the end.
func writeReports(s Streams, o *Output, disks []*copyDisk, took time.Duration) error {
	all := copiesReport{Status: copyStatus(failureOf(disks)), DurationSeconds: took.Seconds()}
	for _, d := range disks {
		source, target := nbd.Redact(d.task.Source), nbd.Redact(d.target)
		all.Disks = append(all.Disks, diskReport{source, target, copyResult(d.outcome())})
	}
	switch {
	case o.Structured() && len(disks) == 1:
		return o.Data(s.Out, all.Disks[0].copyReport)
	case o.Structured():
		return o.Data(s.Out, all)
	}
	for i, r := range all.Disks {
		if r.Error != nil {
			continue
		}
		name := ""
		if len(disks) > 1 {
			name = disks[i].id + " to " + r.Target + ": "
		}
		if _, err := fmt.Fprintln(s.Out, name+r.words()); err != nil {
			return err
		}
	}
	return nil
}

func (r copyReport) words() string {
	verified := "not verified"
	if r.Verified {
		verified = fmt.Sprintf("%s verified", sizeText(r.BytesVerified))
	}
	text := fmt.Sprintf("%s: %s copied, %s zeros skipped, %s resumed, in %.1fs (%s/s); %s",
		r.Status, sizeText(r.BytesTransferred), sizeText(r.BytesSkipped), sizeText(r.BytesResumed),
		r.DurationSeconds, sizeText(int64(r.BytesPerSecond)), verified)
	if r.BLAKE3 != nil {
		text += "; blake3 " + *r.BLAKE3
	}
	return text
}
