// Package vsphere speaks with a vCenter: it finds VMs, switches change tracking on, takes and removes snapshots, asks
// which areas of a disk changed, and says where the bytes of a frozen disk can be read.
//
// It must not know jobs, targets or NBD: it moves no byte of a disk and starts no process.
//
// Everything it does can be repeated after a crash. What it makes in the vCenter carries our mark, and it never touches
// what does not.
package vsphere
