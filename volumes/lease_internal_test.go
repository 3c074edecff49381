package volumes

import (
	"testing"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// TestTwoPartitionsHaveTwoLeases claims two partitions of a disk that another VM had as a whole, before it is known
// whose they will be: the row of the disk stays, and both disks of the job are to be written at once.
func TestTwoPartitionsHaveTwoLeases(t *testing.T) {
	v := New(Allow{}, nil, nil)
	whole := job.VolumeRecord{ID: "whole", Target: "/dev/x", Owner: job.VolumeOwner{VM: "other"}, Generation: 1}
	ch := &changes{rows: []job.VolumeRecord{whole}, now: time.Unix(1, 0), places: places{
		"/dev/x":  {own: []string{"x"}},
		"/dev/x1": {own: []string{"x1"}, beneath: []string{"x"}},
		"/dev/x2": {own: []string{"x2"}, beneath: []string{"x"}},
	}}
	leases := map[string]bool{}
	for disk, target := range map[job.DiskID]string{"disk-1": "/dev/x1", "disk-2": "/dev/x2"} {
		c := job.VolumeClaim{VolumeRef: job.VolumeRef{Job: "j", Disk: disk, Target: target}}
		row, err := v.claim(t.Context(), ch, c, looked{Info: Info{Kind: nbd.Block, Exists: true}})
		if err != nil {
			t.Fatal(err)
		}
		leases[row.LeaseID()] = true
	}
	if len(leases) != 2 {
		t.Errorf("the leases are %v", leases)
	}
}
