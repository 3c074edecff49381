// Package vsphere talks to a vCenter. It finds VMs, enables changed block tracking (CBT), takes and removes snapshots,
// asks which areas of a disk changed, and says where the bytes of a frozen disk can be read.
//
// It must not know jobs, targets or NBD: it moves no byte of a disk and starts no process.
//
// A copy of one VM in rounds, as the caller makes it:
//
//	c := Connect(config)                            client.go    one session, kept alive until Close
//	vm := c.Inspect(name)                           vm.go        changes nothing
//	c.EnsureCBT(vm)                                 cbt.go       on, and started by a snapshot that is removed at once
//	for each round:
//	    snap := c.Snapshot(vm, mark)                snapshot.go  freezes all disks at one instant
//	    for each disk of snap:
//	        areas := c.ChangedAreas(disk, since)    areas.go     since is "*" in the first round: what is allocated
//	        export := c.Export(disk)                export.go    how to read the frozen bytes
//	        (the caller copies areas out of export)
//	        since = the disk's change ID in snap
//	    c.CheckSnapshot(vm, snap)                   snapshot.go  it is still there: what was read is of its instant
//	    c.RemoveSnapshot(vm, snap)                  remove.go
//
// Each of these calls can be repeated after a crash. The description of a snapshot that the package takes says that it
// is ours, and holds the node's id and the mark of the job and round. It decides, never the name, whether a snapshot is
// found again or may be removed. CBT stays on.
//
// All methods of Client but Close are safe for concurrent use, also for disks of the same VM. Calls that take or remove
// snapshots of the same VM should come one after the other: a vCenter refuses a second task on a VM, and the error is
// then of kind Unavailable.
package vsphere
