package vsphere_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vmware/govmomi/vim25/types"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/vsphere"
)

func virtualDisk(b types.BaseVirtualDeviceBackingInfo) *types.VirtualDisk {
	return &types.VirtualDisk{
		CapacityInBytes: 4096, CapacityInKB: 4, DiskObjectId: "29-2001",
		VirtualDevice: types.VirtualDevice{
			Key: 2001, ControllerKey: 1000, UnitNumber: types.NewInt32(1), Backing: b,
			DeviceInfo: &types.Description{Label: "Hard disk 2"},
		},
	}
}

func file(name string) types.VirtualDeviceFileBackingInfo {
	return types.VirtualDeviceFileBackingInfo{FileName: name}
}

func TestEachKindOfBackingIsReadOrRefusedWithItsReason(t *testing.T) {
	want := job.Disk{
		ID: "disk-2001", Key: 2001, Label: "Hard disk 2", File: "[ds one] vm/vm.vmdk", Datastore: "ds one",
		Capacity: 4096, Unit: 1, BackingID: "uuid", ChangeID: "52/7",
	}
	f := file("[ds one] vm/vm.vmdk")
	for _, tc := range []struct {
		name    string
		backing types.BaseVirtualDeviceBackingInfo
		unfit   string
		change  func(*job.Disk)
	}{
		{name: "flat", backing: &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: f, Uuid: "uuid", ChangeId: "52/7", DiskMode: "persistent",
		}},
		{
			name: "thin",
			backing: &types.VirtualDiskFlatVer2BackingInfo{
				VirtualDeviceFileBackingInfo: f, Uuid: "uuid", ChangeId: "52/7", ThinProvisioned: new(true),
			},
			change: func(d *job.Disk) { d.Thin = true },
		},
		{
			name: "sparse",
			backing: &types.VirtualDiskSparseVer2BackingInfo{
				VirtualDeviceFileBackingInfo: f, Uuid: "uuid", ChangeId: "52/7",
			},
			change: func(d *job.Disk) { d.Thin = true },
		},
		{
			name: "space-efficient sparse",
			backing: &types.VirtualDiskSeSparseBackingInfo{
				VirtualDeviceFileBackingInfo: f, Uuid: "uuid", ChangeId: "52/7",
			},
			change: func(d *job.Disk) { d.Thin = true },
		},
		{
			name: "raw device, virtual mode",
			backing: &types.VirtualDiskRawDiskMappingVer1BackingInfo{
				VirtualDeviceFileBackingInfo: f, Uuid: "uuid", ChangeId: "52/7", CompatibilityMode: "virtualMode",
			},
		},
		{
			name: "raw device, physical mode",
			backing: &types.VirtualDiskRawDiskMappingVer1BackingInfo{
				VirtualDeviceFileBackingInfo: f, Uuid: "uuid", ChangeId: "52/7", CompatibilityMode: "physicalMode",
			},
			unfit: "physical mode",
		},
		{name: "independent", backing: &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: f, Uuid: "uuid", ChangeId: "52/7", DiskMode: "independent_persistent",
		}, unfit: "independent"},
		{name: "shared", backing: &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: f, Uuid: "uuid", ChangeId: "52/7", Sharing: "sharingMultiWriter",
		}, unfit: "several VMs"},
		{name: "expressly not shared", backing: &types.VirtualDiskFlatVer2BackingInfo{
			VirtualDeviceFileBackingInfo: f, Uuid: "uuid", ChangeId: "52/7", Sharing: "sharingNone",
		}},
		{
			name: "old flat", backing: &types.VirtualDiskFlatVer1BackingInfo{VirtualDeviceFileBackingInfo: f},
			unfit:  "VirtualDiskFlatVer1BackingInfo",
			change: func(d *job.Disk) { d.BackingID, d.ChangeID = "29-2001", "" },
		},
		{
			name: "not a disk's backing", backing: &types.VirtualDeviceRemoteDeviceBackingInfo{},
			unfit:  "does not know",
			change: func(d *job.Disk) { d.BackingID, d.ChangeID, d.File, d.Datastore = "29-2001", "", "", "" },
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := want
			if tc.change != nil {
				tc.change(&want)
			}
			got := vsphere.DiskOf(virtualDisk(tc.backing))
			if (tc.unfit == "") != (got.Unfit == "") || !strings.Contains(got.Unfit, tc.unfit) {
				t.Errorf("unfit %q, want %q in it", got.Unfit, tc.unfit)
			}
			got.Unfit = ""
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("disk (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDisksOfASharedControllerAreUnfitAndOthersComeInOrder(t *testing.T) {
	controller := &types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
		SharedBus:         types.VirtualSCSISharingPhysicalSharing,
		VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{Key: 1000}},
	}}
	flat := &types.VirtualDiskFlatVer2BackingInfo{VirtualDeviceFileBackingInfo: file("[a] b.vmdk")}
	other := virtualDisk(flat)
	other.Key, other.ControllerKey = 16000, 15000
	disks := vsphere.DisksOf([]types.BaseVirtualDevice{other, controller, virtualDisk(flat)})
	if len(disks) != 2 || disks[0].ID != "disk-2001" || disks[1].ID != "disk-16000" {
		t.Fatalf("disks %v", disks)
	}
	if !strings.Contains(disks[0].Unfit, "shared") || disks[1].Unfit != "" {
		t.Errorf("unfit %q and %q", disks[0].Unfit, disks[1].Unfit)
	}
}

func TestAddressesOfADiskFileAreEncodedOnceAndThenTwice(t *testing.T) {
	for _, tc := range []struct {
		dc, file string
		want     []string
	}{
		{
			"DC0", "[LocalDS_0] web/web.vmdk",
			[]string{"https://vc/folder/web/web-flat.vmdk?dcPath=DC0&dsName=LocalDS_0"},
		},
		{"Site A/DC 1", "[store 1] my vm/my vm_1.vmdk", []string{
			"https://vc/folder/my%20vm/my%20vm_1-flat.vmdk?dcPath=Site%20A%2FDC%201&dsName=store%201",
			"https://vc/folder/my%20vm/my%20vm_1-flat.vmdk?dcPath=Site%2520A%252FDC%25201&dsName=store%25201",
		}},
		{"DC0", "no datastore/web.vmdk", nil},
		{"DC0", "[LocalDS_0] web/web.iso", nil},
	} {
		got, err := vsphere.FileAddresses("vc", tc.dc, tc.file)
		if (err != nil) != (tc.want == nil) {
			t.Errorf("%s: error %v", tc.file, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.file, diff)
		}
	}
}
