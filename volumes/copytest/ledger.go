package copytest

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/vmferry/vmferry/job"
)

// Ledger keeps rows in memory. Its methods may be called from many goroutines.
type Ledger struct {
	// Active says whether a job has not ended; nil means that none has.
	Active func(id job.ID) bool

	mu     sync.Mutex
	rows   map[string]job.VolumeRecord
	leases map[string]job.Lease
	epoch  int64
}

// Volumes are all rows, the oldest claim first.
func (l *Ledger) Volumes(context.Context) ([]job.VolumeRecord, error) {
	return l.list(func(job.VolumeRecord) bool { return true }), nil
}

// VolumesOf are the rows of a job.
func (l *Ledger) VolumesOf(_ context.Context, id job.ID) ([]job.VolumeRecord, error) {
	return l.list(func(r job.VolumeRecord) bool { return r.Job == id }), nil
}

func (l *Ledger) list(which func(job.VolumeRecord) bool) []job.VolumeRecord {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []job.VolumeRecord{}
	for _, r := range l.rows {
		if which(r) {
			r.JobActive = l.Active != nil && l.Active(r.Job)
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b job.VolumeRecord) int {
		return cmp.Or(a.ClaimedAt.Compare(b.ClaimedAt), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// ChangeVolumes stores rows by their id and drops others.
func (l *Ledger) ChangeVolumes(_ context.Context, save []job.VolumeRecord, drop []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rows == nil {
		l.rows = map[string]job.VolumeRecord{}
	}
	for _, id := range drop {
		delete(l.rows, id)
	}
	for _, r := range save {
		l.rows[r.ID] = r
	}
	return nil
}
