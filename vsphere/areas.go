package vsphere

import (
	"context"
	"fmt"
	"strings"

	"github.com/vmware/govmomi/fault"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// allAllocated asks for the allocated areas instead of the changed ones.
const allAllocated = "*"

// ChangedAreas lists what changed on a disk between the instant of the change ID since and the snapshot. If since is
// "*" it lists what is allocated. The list may hold bytes that did not change, and misses none that did. It is normal
// and within the disk's capacity at the snapshot.
//
// An error of kind CBTInvalid means that the vCenter cannot tell what changed: the disk needs a full round. Corrupt
// means that an answer contradicts itself. No other error is a reason to copy everything.
func (c *Client) ChangedAreas(ctx context.Context, vm job.VM, snap job.VMSnapshot, disk job.DiskID,
	since string,
) (job.Extents, error) {
	op := fmt.Sprintf("ask for changed areas of %s of %s", disk, vm.Name)
	d, ok := snap.Disk(disk)
	if !ok {
		return nil, job.Errorf(op, job.NotFound, "", "the snapshot has no such disk")
	}
	if since == "" {
		return nil, job.Errorf(op, job.Invalid, "", "no change ID is given")
	}
	ref := snapshotRef(snap.Ref)
	query := types.QueryChangedDiskAreas{This: vmRef(vm), Snapshot: &ref, DeviceKey: d.Key, ChangeId: since}
	var out job.Extents
	for query.StartOffset < d.Capacity {
		page, err := c.queryAreas(ctx, op, query)
		if err != nil {
			return nil, err
		}
		areas, next, err := checkPage(page, query.StartOffset, d.Capacity)
		if err != nil {
			return nil, &job.Error{Op: op, Kind: job.Corrupt, Err: err}
		}
		out = append(out, areas...)
		query.StartOffset = next
	}
	return out.Merge(0), nil
}

func (c *Client) queryAreas(ctx context.Context, op string,
	query types.QueryChangedDiskAreas,
) (page types.DiskChangeInfo, err error) {
	err = c.do(ctx, op, queryTimeout, func(ctx context.Context) error {
		res, err := methods.QueryChangedDiskAreas(ctx, c.vim, &query)
		if err == nil {
			page = res.Returnval
		}
		return err
	})
	if err != nil && isTrackingLost(err) {
		next := "Copy the disk in full: changes since that point in time are not known"
		if query.ChangeId == allAllocated {
			next = "Read the whole disk: the vCenter cannot tell which areas are allocated"
		}
		return page, &job.Error{Op: op, Kind: job.CBTInvalid, Next: next, Err: err}
	}
	return page, err
}

// isTrackingLost says whether a fault means that the tracking file does not reach back to the change ID. In answer to
// this query, and to no other, a fault about a file means that.
func isTrackingLost(err error) bool {
	var file types.BaseFileFault
	if _, ok := fault.As(err, &file); ok {
		return true
	}
	var arg *types.InvalidArgument
	_, ok := fault.As(err, &arg)
	return ok && strings.Contains(strings.ToLower(arg.InvalidProperty), "changeid")
}

// checkPage validates one answer. A page may be empty, but must end after from. The last page and its last area may
// reach beyond the end of the disk, since disks are tracked in blocks.
func checkPage(page types.DiskChangeInfo, from, capacity int64) (areas job.Extents, next int64, err error) {
	next = page.StartOffset + page.Length
	if page.StartOffset < 0 || page.StartOffset > from || page.Length <= 0 || next <= from {
		return nil, 0, fmt.Errorf("the answer for offset %d covers %d+%d: it does not continue from there", from,
			page.StartOffset, page.Length)
	}
	for _, a := range page.ChangedArea {
		if a.Start < 0 || a.Length <= 0 || a.Start >= capacity || a.Start+a.Length < a.Start {
			return nil, 0, fmt.Errorf("the answer for offset %d names the area %d+%d on a disk of %d bytes", from,
				a.Start, a.Length, capacity)
		}
		areas = append(areas, job.Extent{Offset: a.Start, Length: min(a.Length, capacity-a.Start)})
	}
	return areas.Merge(0), next, nil
}
