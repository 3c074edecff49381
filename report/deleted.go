package report

import (
	"encoding/json"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Deleted says that a job was deleted. Its version is higher than that of every report of the job, and lower than those
// of a later job with the same id.
type Deleted struct {
	JobID job.ID
	Epoch int64
	Seq   int64
	At    time.Time
}

// Version is the version of the deletion.
func (d Deleted) Version() Version { return Version{d.Epoch, d.Seq} }

// deletedForm is the wire form of a Deleted, in events and in Redis. A reader that takes it for a report finds job_id,
// epoch and seq where a report has them.
type deletedForm struct {
	JobID     job.ID    `json:"job_id"`
	Deleted   bool      `json:"deleted"`
	Epoch     int64     `json:"epoch"`
	Seq       int64     `json:"seq"`
	DeletedAt time.Time `json:"deleted_at"`
}

// MarshalJSON writes the wire form, whose field deleted is true.
func (d Deleted) MarshalJSON() ([]byte, error) {
	return json.Marshal(deletedForm{d.JobID, true, d.Epoch, d.Seq, d.At.UTC()})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (d *Deleted) UnmarshalJSON(b []byte) error {
	var f deletedForm
	if err := json.Unmarshal(b, &f); err != nil {
		return err
	}
	*d = Deleted{f.JobID, f.Epoch, f.Seq, f.DeletedAt}
	return nil
}

// Change is what readers of the reports get: a new report, or that a job was deleted. One of the two is set. Readers
// share what it points to, so none may change it.
type Change struct {
	Report  *Report
	Deleted *Deleted
}

// JobID is the id of the job that changed.
func (c Change) JobID() job.ID {
	if c.Deleted != nil {
		return c.Deleted.JobID
	}
	return c.Report.JobID
}

// Version is the version of the report, or of the deletion.
func (c Change) Version() Version {
	if c.Deleted != nil {
		return c.Deleted.Version()
	}
	return c.Report.Version()
}
