package job

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// VolumeOwner is whose bytes a volume holds.
type VolumeOwner struct {
	VCenter string `json:"vcenter"` // instance UUID of the vCenter; "" if it is not known
	VM      string `json:"vm"`      // instance UUID, lower case; "" until preflight found it
	Name    string `json:"name"`    // of the VM, for people: as it was last, or as the request has it
	Disk    DiskID `json:"disk"`
}

// Same says whether both are the same disk of the same VM. A vCenter that is not known is no difference; a VM whose
// UUID is not known is the same as none.
func (o VolumeOwner) Same(other VolumeOwner) bool {
	if o.VCenter != "" && other.VCenter != "" && !strings.EqualFold(o.VCenter, other.VCenter) {
		return false
	}
	return o.VM != "" && strings.EqualFold(o.VM, other.VM) && o.Disk == other.Disk
}

// OwnerOf is the owner of the volumes of a VM, without a disk.
func OwnerOf(vm VM) VolumeOwner {
	return VolumeOwner{VCenter: vm.VCenterID, VM: strings.ToLower(vm.UUID), Name: cmp.Or(vm.Path, vm.Name)}
}

func (o VolumeOwner) String() string { return fmt.Sprintf("%s of VM %s", o.Disk, o.Name) }

// VolumeRecord is one row of the ledger: what the journal knows of a volume.
type VolumeRecord struct {
	ID       string      `json:"id"`     // random; a volume that gets another owner gets another id
	Target   string      `json:"target"` // where it was last: path or URI; where to find it, never who it is
	Identity string      `json:"identity"`
	Stamp    string      `json:"stamp"` // as our last writer left the volume; "" without a stamp, or if never written
	Owner    VolumeOwner `json:"owner"`
	Job      ID          `json:"job"`     // the newest job that claimed it
	MadeBy   ID          `json:"made_by"` // the job that made it; "" if it was there before, or if that job was deleted
	// a job that was deleted made it
	Made bool `json:"made,omitempty"`
	// grows with each round that begins to write; 0 means that nothing of ours was ever written to it
	Generation int64 `json:"generation"`
	Writing    bool  `json:"writing"` // a writer of ours is at work, or was killed: Stamp says nothing
	// of the snapshot that our last writer wrote from, whether or not its round was committed; "" if it had none
	ChangeID   string    `json:"change_id,omitempty"`
	Size       int64     `json:"size"` // bytes of the disk
	ClaimedAt  time.Time `json:"claimed_at"`
	AdoptedAt  time.Time `json:"adopted_at"`  // when it was taken over on purpose; zero for never
	ReleasedAt time.Time `json:"released_at"` // when it was released: any job may have it; zero for not
	// it has not been the same volume, or the same owner's, all the time: no set of a version without a ledger fits it
	Renewed bool `json:"renewed,omitempty"`
	// id of the volume's lease, if that is not ID: it stays when ID changes
	Lease string `json:"lease,omitempty"`
	// JobActive says that Job has not ended. The journal fills it in when it reads the row; it is not stored.
	JobActive bool `json:"-"`
}

// LeaseID is the id of the volume's lease.
func (r VolumeRecord) LeaseID() string { return cmp.Or(r.Lease, r.ID) }

// Ours says whether a job made the volume: it was not there before.
func (r VolumeRecord) Ours() bool { return r.Made || r.MadeBy != "" }

// Without is the row when that job has been deleted: another job may get its id.
func (r VolumeRecord) Without(id ID) VolumeRecord {
	if r.Job == id {
		r.Job = ""
	}
	if r.MadeBy == id {
		r.MadeBy, r.Made = "", true
	}
	return r
}
