package volumes

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
)

// TestClosingWaitsForNoKernel holds the lock of a target, as Open does while a system call hangs.
func TestClosingWaitsForNoKernel(t *testing.T) {
	dir := t.TempDir()
	v := New(Allow{Roots: []string{dir}}, &oneRow{}, nil)
	ref := job.VolumeRef{Job: "job-1", Disk: "disk-2000", Target: filepath.Join(dir, "disk.raw"), Capacity: 1 << 20}
	claims := []job.VolumeClaim{{VolumeRef: ref, Owner: job.VolumeOwner{Disk: ref.Disk}}}
	if _, err := v.Claim(t.Context(), claims, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Prepare(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	h, err := v.hold(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	v.Close(ended) // returns
	h.mu.Unlock()
	v.Close(t.Context())
}

// oneRow is a ledger of one volume.
type oneRow struct {
	rows  []job.VolumeRecord
	lease job.Lease
}

func (l *oneRow) Leases(context.Context) ([]job.Lease, error) { return []job.Lease{l.lease}, nil }

func (l *oneRow) Lease(_ context.Context, volume string) (job.Lease, error) {
	l.lease.Volume = volume
	return l.lease, nil
}

func (l *oneRow) ChangeLease(_ context.Context, next job.Lease) error {
	l.lease = next
	return nil
}

func (l *oneRow) DropLeases(context.Context, []string) error { return nil }

func (l *oneRow) NextLeaseEpoch(_ context.Context, above int64, _ time.Time) (int64, error) {
	return above + 1, nil
}

func (l *oneRow) Volumes(context.Context) ([]job.VolumeRecord, error) { return l.rows, nil }

func (l *oneRow) VolumesOf(context.Context, job.ID) ([]job.VolumeRecord, error) { return l.rows, nil }

func (l *oneRow) ChangeVolumes(_ context.Context, save []job.VolumeRecord, _ []string) error {
	l.rows = save
	return nil
}
