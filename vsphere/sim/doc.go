// Package sim is the rehearsal vCenter: govmomi's simulator, extended by disks that have bytes, snapshots that freeze
// them, true changed block tracking (CBT), datastore files over HTTPS, and faults to inject. Demos and tests run normal
// jobs against it.
//
// It must not know jobs or the engine that copies.
//
// How a disk is stored:
//
//	a disk     = one image file, plus one overlay for each snapshot of the VM
//	a write    goes to the topmost overlay, or to the image if there is none; whole blocks are copied up
//	a snapshot freezes the bytes that are there and puts an overlay on top
//	removal    merges the overlay into the overlay or image below
//	tracking   keeps one set of blocks for each interval between two change IDs; a query unites sets
//
// What the calls of a copy do here:
//
//	ReconfigVM_Task          requests CBT, which starts at the next stun of a running VM   dispatch.go, task.go
//	CreateSnapshot_Task      stuns the VM: all its disks are frozen at one instant         task.go, disk.go
//	QueryChangedDiskAreas    lists blocks, page by page                                    dispatch.go, tracking.go
//	GET /folder/*-flat.vmdk  reads an image below its overlays                             folder.go
//	RemoveSnapshot_Task      stuns the VM and merges the overlays                          task.go, disk.go
//
// All methods of VCenter are safe for concurrent use, and several vCenters can run in one process. A VM runs one task
// at a time and refuses a second one, as in a vCenter. What would set variables of govmomi's simulator that the whole
// process shares, such as a delay of every call, is not offered.
package sim
