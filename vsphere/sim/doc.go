// Package sim is a vCenter for rehearsals: govmomi's simulator, extended by disks that have bytes, snapshots that
// freeze them, true changed block tracking, datastore files over HTTPS, and faults on request. Demos, tests and drills
// run the normal jobs against it.
//
// How a disk is kept:
//
//	a disk     = one image file, plus one overlay for each snapshot of the VM
//	a write    goes to the topmost overlay, or to the image if there is none; whole blocks are copied up
//	a snapshot freezes what is there and puts an overlay on top
//	removal    merges the overlay into what is below
//	tracking   keeps one set of blocks for each interval between two change IDs; a query unites sets
//
// It must not know jobs or the engine that copies. govmomi's simulator has variables of its own for the whole process,
// so what is asked of them, as delays of every call, is not offered here.
package sim
