package copytest

import (
	"context"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Leases are all leases that were ever granted, in no order.
func (l *Ledger) Leases(context.Context) ([]job.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []job.Lease{}
	for _, lease := range l.leases {
		out = append(out, lease)
	}
	return out, nil
}

// Lease is the lease of a volume.
func (l *Ledger) Lease(_ context.Context, volume string) (job.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if lease, ok := l.leases[volume]; ok {
		return lease, nil
	}
	return job.Lease{Volume: volume, State: job.LeaseFree}, nil
}

// ChangeLease replaces a lease if it is at the revision before.
func (l *Ledger) ChangeLease(_ context.Context, next job.Lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch have := l.leases[next.Volume]; {
	case next.Volume == "" || next.Revision < 1:
		return job.Errorf("change lease", job.Internal, "", "a lease has no volume or no revision")
	case have == next:
		return nil
	case have.Revision != next.Revision-1, next.Epoch < have.Epoch:
		return job.Errorf("change lease", job.Conflict, "", "another change was first")
	}
	if l.leases == nil {
		l.leases = map[string]job.Lease{}
	}
	l.leases[next.Volume] = next
	return nil
}

// DropLeases removes free leases.
func (l *Ledger) DropLeases(_ context.Context, volumes []string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range volumes {
		if l.leases[v].Free() {
			delete(l.leases, v)
		}
	}
	return nil
}

// NextLeaseEpoch is greater than above and than all that it has returned before.
func (l *Ledger) NextLeaseEpoch(_ context.Context, above int64, _ time.Time) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch = max(l.epoch, above) + 1
	return l.epoch, nil
}
