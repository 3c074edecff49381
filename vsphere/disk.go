package vsphere

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
)

// disksOf lists the virtual disks among devices, ordered by their keys.
func disksOf(devices []types.BaseVirtualDevice) []job.Disk {
	buses := map[int32]types.VirtualSCSISharing{}
	for _, dev := range devices {
		if c, ok := dev.(types.BaseVirtualSCSIController); ok {
			scsi := c.GetVirtualSCSIController()
			buses[scsi.Key] = scsi.SharedBus
		}
	}
	var disks []job.Disk
	for _, dev := range devices {
		d, ok := dev.(*types.VirtualDisk)
		if !ok {
			continue
		}
		disk := diskOf(d)
		if bus := buses[d.ControllerKey]; disk.Unfit == "" && bus != "" && bus != types.VirtualSCSISharingNoSharing {
			disk.Unfit = fmt.Sprintf("its controller is shared with other VMs (%s): snapshots leave it out", bus)
		}
		disks = append(disks, disk)
	}
	slices.SortFunc(disks, func(a, b job.Disk) int { return cmp.Compare(a.Key, b.Key) })
	return disks
}

func diskOf(d *types.VirtualDisk) job.Disk {
	b := backingOf(d.Backing)
	out := job.Disk{
		ID: job.NewDiskID(d.Key), Key: d.Key, File: b.file, Capacity: d.CapacityInBytes, Thin: b.thin,
		BackingID: b.uuid, ChangeID: b.changeID, Unfit: b.unfit,
	}
	if out.Capacity == 0 {
		out.Capacity = d.CapacityInKB * 1024
	}
	if d.UnitNumber != nil {
		out.Unit = *d.UnitNumber
	}
	if d.DeviceInfo != nil {
		out.Label = d.DeviceInfo.GetDescription().Label
	}
	var path object.DatastorePath
	if path.FromString(b.file) {
		out.Datastore = path.Datastore
	}
	if out.BackingID == "" {
		out.BackingID = d.DiskObjectId
	}
	switch {
	case out.Unfit != "":
	case strings.HasPrefix(b.mode, "independent"):
		out.Unfit = "it is independent (" + b.mode + "): snapshots leave it out"
	case b.sharing != "" && b.sharing != string(types.VirtualDiskSharingSharingNone):
		out.Unfit = "several VMs may write to it (" + b.sharing + "): it has no single state to copy"
	case out.Capacity <= 0:
		out.Unfit = "the vCenter does not report its size"
	}
	return out
}

// backing holds what all kinds of backing have in common.
type backing struct {
	file, uuid, changeID, mode, sharing string
	thin                                bool
	unfit                               string
	// one flat file without a parent, not split, not encrypted: its bytes are those of the disk
	plain bool
}

func backingOf(info types.BaseVirtualDeviceBackingInfo) backing {
	switch b := info.(type) {
	case *types.VirtualDiskFlatVer2BackingInfo:
		return backing{
			file: b.FileName, uuid: b.Uuid, changeID: b.ChangeId, mode: b.DiskMode, sharing: b.Sharing,
			thin: isTrue(b.ThinProvisioned), plain: b.Parent == nil && b.KeyId == nil && !isTrue(b.Split),
		}
	case *types.VirtualDiskSparseVer2BackingInfo:
		return backing{file: b.FileName, uuid: b.Uuid, changeID: b.ChangeId, mode: b.DiskMode, thin: true}
	case *types.VirtualDiskSeSparseBackingInfo:
		return backing{file: b.FileName, uuid: b.Uuid, changeID: b.ChangeId, mode: b.DiskMode, thin: true}
	case *types.VirtualDiskRawDiskMappingVer1BackingInfo:
		out := backing{file: b.FileName, uuid: b.Uuid, changeID: b.ChangeId, mode: b.DiskMode, sharing: b.Sharing}
		if b.CompatibilityMode != string(types.VirtualDiskCompatibilityModeVirtualMode) {
			out.unfit = "it is a raw device in physical mode: snapshots leave it out"
		}
		return out
	case *types.VirtualDiskRawDiskVer2BackingInfo:
		return backing{
			file: b.DescriptorFileName, uuid: b.Uuid, changeID: b.ChangeId, sharing: b.Sharing,
			unfit: "it is a raw disk of the host: changes on it are not tracked",
		}
	case types.BaseVirtualDeviceFileBackingInfo:
		return backing{
			file:  b.GetVirtualDeviceFileBackingInfo().FileName,
			unfit: "changes on a disk of this kind are not tracked: " + typeName(info),
		}
	default:
		return backing{unfit: "it is of a kind that vmferry does not know: " + typeName(info)}
	}
}

func typeName(v any) string {
	t := reflect.TypeOf(v)
	if t == nil {
		return "none"
	}
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t.Name()
}

func isTrue(b *bool) bool { return b != nil && *b }
