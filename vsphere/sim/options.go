package sim

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Options says what the rehearsal vCenter has.
type Options struct {
	Listen   string // address and port; "" means a free port of 127.0.0.1
	User     string // "" means administrator@vsphere.local
	Password job.Secret
	VMs      []VM

	// Dir holds the disks' files while the vCenter runs: one directory for each VM, removed by Close. Dir must exist
	// and have no such directories yet. "" means a temporary directory.
	Dir string
	// InPlace uses the images themselves, so the guest's writes change them. Else they are copied with their holes.
	InPlace bool

	MaxAreas       int           // most areas in one answer; 0 for 2000, as ESXi
	TaskTime       time.Duration // added to the time of each task
	SessionTimeout time.Duration // an idle session ends after this time; 0 for never
	CBT            bool          // change tracking is on already
	InstanceUUID   string        // of the vCenter; "" for one that follows from the paths of its VMs
	EscapeNames    bool          // names of snapshots come back with %, / and \ percent-encoded

	Log *slog.Logger // nil for none
}

// VM is one virtual machine.
type VM struct {
	Name       string
	Folder     string   // name of a folder in the inventory; "" for none
	Disks      []string // raw images; their sizes must be multiples of 512
	PoweredOff bool
	Snapshots  []string       // names of snapshots without vmferry's mark
	Hardware   string         // version of the virtual hardware; "" for vmx-13
	Unfit      map[int]string // by the index of a disk: independent, rdm or shared
}

const (
	standardUser  = "administrator@vsphere.local"
	standardAreas = 2000
	sectorSize    = 512

	datacenterName = "DC0" // both names come from govmomi's model
	datastoreName  = "LocalDS_0"

	firstDiskKey  = 2000 // of the first SCSI controller
	controllerKey = 1000
	mostDisks     = 15 // on one controller
)

// The ways in which a disk can be unfit for copying.
const (
	unfitIndependent = "independent"
	unfitRDM         = "rdm"
	unfitShared      = "shared"
)

func (o *Options) prepare() error {
	const op = "check the rehearsal vCenter's options"
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if o.User == "" {
		o.User = standardUser
	}
	if o.MaxAreas <= 0 {
		o.MaxAreas = standardAreas
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Password.Empty() {
		return job.Errorf(op, job.Invalid, "Give a password", "a vCenter without a password would accept every client")
	}
	seen := map[string]bool{}
	for _, vm := range o.VMs {
		id := vm.Folder + "/" + vm.Name
		if vm.Name == "" || strings.ContainsAny(vm.Name+vm.Folder, "/\\%[]\x00") || seen[id] {
			return job.Errorf(op, job.Invalid, "Give each VM a name of its own, without / \\ % [ or ]",
				"the VM name %q cannot be used", vm.Name)
		}
		seen[id] = true
		if err := vm.check(); err != nil {
			return &job.Error{
				Op: op, Kind: job.Invalid, Next: "Give raw images: qemu-img convert -O raw makes one",
				Err: fmt.Errorf("VM %s: %w", vm.Name, err),
			}
		}
	}
	return nil
}

func (vm *VM) check() error {
	if len(vm.Disks) > mostDisks {
		return fmt.Errorf("%d disks are more than the %d of one controller", len(vm.Disks), mostDisks)
	}
	for _, image := range vm.Disks {
		info, err := os.Stat(image)
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() == 0 || info.Size()%sectorSize != 0 {
			return fmt.Errorf("%s is not a raw disk image: its size must be a multiple of %d", image, sectorSize)
		}
		if err := checkRaw(image); err != nil {
			return err
		}
	}
	for i, how := range vm.Unfit {
		if i < 0 || i >= len(vm.Disks) || how != unfitIndependent && how != unfitRDM && how != unfitShared {
			return fmt.Errorf("disk %d cannot be made unfit by %q", i, how)
		}
	}
	return nil
}

// checkRaw refuses images whose first bytes name another format. Else such a file would be served, and copied, as if it
// were raw.
func checkRaw(image string) (err error) {
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	head := make([]byte, 16)
	if _, err := io.ReadFull(f, head); err != nil {
		return err
	}
	for magic, format := range map[string]string{
		"QFI\xfb": "qcow2", "KDMV": "VMDK", "COWD": "VMDK",
		"# Disk Descript": "VMDK", "conectix": "VHD", "vhdxfile": "VHDX",
	} {
		if strings.HasPrefix(string(head), magic) {
			return fmt.Errorf("%s is a %s image, not a raw one", image, format)
		}
	}
	return nil
}

// instanceUUID is the vCenter's own: one that is started again with the same VMs is the same.
func (o *Options) instanceUUID() string {
	if o.InstanceUUID != "" {
		return o.InstanceUUID
	}
	h := sha256.New()
	for _, vm := range o.VMs {
		_, _ = fmt.Fprintf(h, "%s/%s\n", vm.Folder, vm.Name) // a hash takes everything
	}
	sum := h.Sum(nil)
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// directory makes the directory for the disks, and returns what removes it.
func (o *Options) directory() (dir string, remove func() error, err error) {
	keep := func() error { return nil }
	if o.Dir != "" {
		dir, err = filepath.Abs(o.Dir)
		return dir, keep, err
	}
	if dir, err = os.MkdirTemp("", "vmferry-sim-"); err != nil {
		return "", keep, err
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}
