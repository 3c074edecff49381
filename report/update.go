package report

import (
	"math"

	"github.com/vmferry/vmferry/job"
)

// Update is what another copy tool posts about its job. Each field may be missing; numbers are at least 0.
type Update struct {
	Stage            string
	Status           string
	BytesTransferred *int64
	TotalBytes       *int64
	ThroughputBPS    *float64 // bytes per second, as that tool sees it
	Percent          *float64
	DiskID           string // "" is for the whole job
	SyncType         string // full, initial or incremental
	ErrorMessage     string
}

// Check refuses negative, infinite or undefined numbers and texts that are too long. Errors are of kind Invalid.
func (u Update) Check() error {
	bad := func(format string, args ...any) error {
		return job.Errorf("read progress update", job.Invalid, "", format, args...)
	}
	for name, n := range map[string]*int64{"bytes_transferred": u.BytesTransferred, "total_bytes": u.TotalBytes} {
		if n != nil && *n < 0 {
			return bad("%s is negative (%d)", name, *n)
		}
	}
	for name, f := range map[string]*float64{"throughput_bps": u.ThroughputBPS, "percent": u.Percent} {
		if f != nil && (math.IsNaN(*f) || math.IsInf(*f, 0) || *f < 0) {
			return bad("%s is not a number from 0 up", name)
		}
	}
	if len(u.DiskID) > 128 || len(u.Stage) > 128 || len(u.Status) > 128 || len(u.SyncType) > 128 ||
		len(u.ErrorMessage) > 64<<10 {
		return bad("a text is too long")
	}
	return nil
}

// stages maps the stages of other tools, in lower case, to a phase and to the percent of a job that enters the stage.
var stages = map[string]struct { //nolint:gochecknoglobals // a constant table
	phase   job.Phase
	percent float64
}{
	"discover": {job.Preflight, 5}, "initializing": {job.Preflight, 5},
	"enablecbt": {job.EnablingCBT, 5}, "querycbt": {job.Connect, 15},
	"snapshot": {job.Snapshot, 10}, "creating snapshot": {job.Snapshot, 10}, "snapshot creation": {job.Snapshot, 10},
	"preparevolumes": {job.Connect, 20}, "startexports": {job.Connect, 20}, "setting up nbd": {job.Connect, 20},
	"preparing migration": {job.Connect, 30},
	"transfer":            {job.Transfer, 0}, "copying data": {job.Transfer, 0},
	"finalize": {job.Commit, 100}, "persistchangeids": {job.Commit, 100}, "cleanup": {job.Cleanup, 100},
}

// externalStatuses maps the statuses of other tools, in lower case.
var externalStatuses = map[string]job.Status{ //nolint:gochecknoglobals // a constant table
	"queued": job.Pending, "pending": job.Pending,
	"preparing": job.Running, "snapshotting": job.Running, "streaming": job.Running, "finalizing": job.Running,
	"in_progress": job.Running, "running": job.Running, "paused": job.Paused,
	"succeeded": job.StatusCompleted, "completed": job.StatusCompleted,
	"failed": job.StatusFailed, "error": job.StatusFailed,
	"cancelled": job.StatusCancelled, "canceled": job.StatusCancelled,
}
