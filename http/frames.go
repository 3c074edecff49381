package http

import (
	"encoding/json"
	"sync"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const maxFrames = 20_000 // jobs; twice as many as a node is made for

// frames keeps the JSON of each job's newest report, so that a thousand streams encode it once. Its methods may be
// called from many goroutines.
type frames struct {
	mu   sync.Mutex
	jobs map[job.ID]frame
}

type frame struct {
	version report.Version
	json    []byte
}

// of returns the report as JSON on one line. The bytes are shared: the caller must not change them.
func (f *frames) of(r report.Report) ([]byte, error) {
	f.mu.Lock()
	had := f.jobs[r.JobID]
	f.mu.Unlock()
	if had.json != nil && had.version == r.Version() {
		return had.json, nil
	}
	b, err := json.Marshal(r)
	if err != nil {
		return nil, job.Errorf("encode report", job.Internal, "", "job %s: %w", r.JobID, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.jobs[r.JobID].version.Less(r.Version()) {
		if len(f.jobs) >= maxFrames {
			clear(f.jobs) // most jobs in it were deleted; the others are encoded again
		}
		f.jobs[r.JobID] = frame{r.Version(), b}
	}
	return b, nil
}
