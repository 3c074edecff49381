package report

import (
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
