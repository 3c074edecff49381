package job

import "time"

// VM is a virtual machine as preflight found it.
type VM struct {
	Ref        string `json:"ref"`  // the vCenter's managed object id: vm-29
	UUID       string `json:"uuid"` // instance UUID: the identity that checkpoint sets are kept under
	Name       string `json:"name"`
	Path       string `json:"path"` // inventory path: /DC0/vm/web
	VCenter    string `json:"vcenter,omitempty"`
	VCenterID  string `json:"vcenter_id,omitempty"` // instance UUID of the vCenter
	Datacenter string `json:"datacenter,omitempty"`
	Host       string `json:"host,omitempty"`        // ESXi host that runs it
	PowerState string `json:"power_state,omitempty"` // poweredOn, poweredOff, suspended
	CBTEnabled bool   `json:"cbt_enabled"`
	Disks      []Disk `json:"disks"` // in the order of their device keys
}

// ListedVM is a VM of an inventory. Its disks have no change ids.
type ListedVM struct {
	VM
	Folder   string // inventory path of the folder, or vApp, that it is in: /DC0/vm/prod
	Template bool   // it cannot be moved
}

// Disk is one virtual disk, as preflight or a snapshot found it.
type Disk struct {
	ID        DiskID `json:"id"`
	Key       int32  `json:"key"`        // vSphere device key, 2000 for the first disk of the first SCSI controller
	Label     string `json:"label"`      // "Hard disk 1"
	File      string `json:"file"`       // "[datastore] vm/vm.vmdk"; in a snapshot the frozen file, never an identity
	Datastore string `json:"datastore"`  // name
	Capacity  int64  `json:"capacity"`   // bytes
	Unit      int32  `json:"unit"`       // unit number on its controller
	Thin      bool   `json:"thin"`       // thin provisioned
	BackingID string `json:"backing_id"` // UUID of the backing: with VM UUID and key the disk's identity
	// in a snapshot: the point in time it froze; "" if tracking is not active on it
	ChangeID string `json:"change_id"`
	Unfit    string `json:"unfit"` // why it can't be copied from a snapshot; "" if it can
}

// VMSnapshot is one snapshot over all disks of a VM: one instant.
type VMSnapshot struct {
	Ref      string `json:"ref"`      // managed object id: snapshot-40
	Name     string `json:"name"`     // vmferry-<job>-<round> for a snapshot of a job
	Quiesced bool   `json:"quiesced"` // as the vCenter reports it, not as the options ask
	Disks    []Disk `json:"disks"`    // frozen: File, Capacity and ChangeID of that instant
}

// Disk finds a disk of the snapshot; false if it has none of that id.
func (s VMSnapshot) Disk(id DiskID) (Disk, bool) {
	for _, d := range s.Disks {
		if d.ID == id {
			return d, true
		}
	}
	return Disk{}, false
}

// SnapshotRef says which snapshot of ours is meant.
type SnapshotRef struct {
	Ref  string // managed object id; "" if it is not known
	Name string // for people
	// what its description holds beside the node: the mark of its job, and the round. "" only for a snapshot of a
	// version that had no marks: it is found by its name
	Mark string
}

// FoundSnapshot is a snapshot on a VM that vmferry took.
type FoundSnapshot struct {
	VM VM // Ref and Name only
	SnapshotRef
	Owner      string // the node that took it; "" if the snapshot does not name one
	Activation bool   // it was taken to start change tracking, for no job
	TakenAt    time.Time
}

// Export says where the bytes of one frozen disk can be read: from an NBD server that runs already (URI), or through an
// nbdkit that the transfer starts (Plugin and Params). It is a value: it holds no process and no connection.
type Export struct {
	Transport   string  // vddk, curl or nbd: for people
	URI         string  // an NBD URI; Plugin, Params, Filters and Options are then empty
	Plugin      string  // nbdkit plugin, by name or path
	Params      []Param // in this order
	Filters     []string
	Options     []string // nbdkit's own options, before the plugin
	Connections int      // most connections that pay off; 0 for no limit
	RequestSize int      // largest request in bytes that is safe; 0 for no limit
}

// Param is one key=value for nbdkit. A value with a Secret never reaches argv, a log or an environment: it is handed
// over by file or pipe.
type Param struct {
	Key, Value string
	Secret     Secret
	Renewed    bool // the secret expires; the running server takes a newer one
}
