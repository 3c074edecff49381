// Package volumes knows what a target is: a regular file, a block device, or an export of an NBD server. It checks
// whether a disk may go there, makes what is missing, opens and locks it, and removes what a job made. It knows no VM,
// and it copies no byte: package nbd gets the open target and does that.
//
//	Check      by name: may it be used, is it large enough; changes nothing
//	Open       opens and locks it, or makes it first; from then on the handle is asked, not the name
//	Handle     gives the open target to a transfer
//	Confirm    at the commit: the name still leads to the open target, and its size is right
//	Release    closes all targets of a job
//	Purge      removes a file that a job made
//
// One file for each back end: file.go, device.go, export.go. Allow says which names may be used at all.
package volumes
