// Package transfer carries one disk on its way: where its frozen disk is read, nbdkit in front of it, the copy, the
// verification. It holds the permits that copies need: what the disks of all jobs share of an ESXi host and of this
// node. It gets an open target as an nbd type, and knows no actor and no phase of a job.
//
//	Run      waits for a permit, starts the server, copies or verifies, stops the server
//	Areas    says what a disk must move: what changed, or what is allocated
//	Keep     lets a round begin with what an earlier one of the job made durable
//	Discard  drops the checkpoints of a job
//
// One run, in order; each step undoes the ones before it when it fails:
//
//	areas    := changed areas since the last round, or allocated ones
//	permit   := wait for host and node, by their limits
//	target   := the open target of the disk
//	server   := nbdkit for the frozen disk, its session cookie renewed while it runs
//	counters := nbd.Copy or nbd.Verify
package transfer
