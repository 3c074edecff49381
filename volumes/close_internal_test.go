package volumes

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/job"
)

// TestClosingWaitsForNoKernel holds the lock of a target, as Open does while a system call hangs.
func TestClosingWaitsForNoKernel(t *testing.T) {
	dir := t.TempDir()
	v := New(Allow{Roots: []string{dir}}, nil)
	ref := job.VolumeRef{Job: "job-1", Disk: "disk-2000", Target: filepath.Join(dir, "disk.raw"), Capacity: 1 << 20}
	if _, err := v.Open(t.Context(), ref, true); err != nil {
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
