package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// Event is what a hook can be told of: the status that a job came into.
type Event string

// The events.
const (
	Failed         Event = "failed"
	WaitingCutover Event = "waiting_cutover"
	Completed      Event = "completed"
)

// Events are all of them.
func Events() []Event { return []Event{Failed, WaitingCutover, Completed} }

// Delivery is the body of a request: what became of one job.
type Delivery struct {
	ID        string         `json:"id"` // the same event of the same job has the same id, also after a restart
	Event     Event          `json:"event"`
	At        time.Time      `json:"at"` // of the report that showed it
	JobID     job.ID         `json:"job_id"`
	VM        report.VM      `json:"vm"`
	Status    job.Status     `json:"status"`
	Mode      job.Mode       `json:"mode"`
	Round     int            `json:"round"`
	CreatedAt time.Time      `json:"created_at"`
	EndedAt   *time.Time     `json:"ended_at"`
	Error     *report.Error  `json:"error"` // null unless the job failed
	Rounds    []report.Round `json:"rounds"`
	Disks     int            `json:"disks"`
}

// deliveryOf is what a report tells; false if its status is no event.
func deliveryOf(r *report.Report) (d Delivery, ok bool) {
	var event Event
	switch r.Status {
	case job.StatusFailed:
		event = Failed
	case job.WaitingCutover:
		event = WaitingCutover
	case job.StatusCompleted:
		event = Completed
	default:
		return d, false
	}
	d = Delivery{
		Event: event, At: r.ObservedAt.UTC(), JobID: r.JobID, VM: r.VM, Status: r.Status, Mode: r.Mode, Round: r.Round,
		CreatedAt: r.CreatedAt, EndedAt: r.EndedAt, Rounds: r.Rounds, Disks: len(r.Disks),
	}
	if event == Failed {
		d.Error = r.Error
	}
	ended := int64(0)
	if r.EndedAt != nil {
		ended = r.EndedAt.UnixNano()
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s %d %d", r.JobID, r.CreatedAt.UnixNano(), event, r.Round, ended))
	d.ID = hex.EncodeToString(sum[:16])
	return d, true
}

// Sign is the signature of a body that is sent at a time.
func Sign(secret []byte, at time.Time, body []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(t + ".")) // a digest's Write never fails
	mac.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(mac.Sum(nil))
}
