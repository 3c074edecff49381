// Package volumes knows what a target is and whose it is: a regular file, a block device, or an export of an NBD
// server. It checks whether a disk may go there, makes what is missing, opens and locks it, notices what others did to
// it, and removes what a job made. It knows no VM but by its id, and it copies no byte: package nbd gets the open
// target and does that.
//
// # Words
//
//   - target: a name, path or URI. It says where to find a volume, never which one it is. allow.go, beneath.go
//   - volume: the thing itself. Its row in the ledger has a random id, an owner and a generation. ledger.go
//   - owner: the disk of a VM whose bytes a volume holds, by the instance UUIDs of vCenter and VM.
//   - identity: facts that name a volume, asked of the open file, the device or the server. identity.go
//   - stamp: text that differs after any write to a volume. An export has none. stamp.go
//   - mark: the id of its row, in an extended attribute of a file. A file system without such attributes has none.
//   - place: where the bytes of a target lie, so that two names of one thing are found. place.go
//   - lease: who may use a volume now; epoch: one grant of it. job.Lease, leases.go
//   - fence: the end of an epoch, after which nothing of it can write. direct.go, serve.go
//   - foreign: a volume that is not as our last writer left it.
//
// Identities and stamps are opaque to all other packages.
//
// # The way of a target through a job
//
//	when               call      what it does                                        what is durable when it returns
//	-----------------  --------  --------------------------------------------------  --------------------------------
//	accept, for named  Claim     refuses what belongs to another VM, disk or job,    a row of generation 0, or the
//	targets; and                 what may not be a target, and what holds data of    owner's row with the new job
//	preflight, for all           others; writes to no target
//	a round begins     Open      opens and locks it, if it exists; says whether      -
//	                             it is foreign; keeps it open until Release
//	before the first   Prepare   makes a file where nothing is, checks again whose   identity, stamp, a higher
//	write of a round             it is, marks it. A foreign volume gets another id,  generation; before a file is
//	                             so that no checkpoint set names it any more         made: that this job makes it
//	an attempt begins  Handle    compares identity, size and stamp of the open       Writing, if it writes
//	                             target, and gives it out
//	an attempt that    Settle    fsync, then the stamp; also if the attempt failed   the stamp, and Writing is gone
//	wrote has ended
//	commit             Confirm   the name leads to the open target; identity, size   -
//	                             and stamp are those that are recorded
//	the round ends     Release   closes and unlocks all targets of the job           -
//	cancel with purge  Purge     removes a file, if this job made it and it is that  the row is gone
//	                             file
//
// Settle comes before the verification: what others write while it reads shows at Confirm. Check is a Claim that
// changes nothing, for preflight without a job. Free gives a volume up, so that any job may claim it.
//
// An owner's next job claims the row again, whatever the target is called by then. When its job has ended a row stays,
// and the volume is the owner's. A row that was claimed and never written to (generation 0) is free then.
//
// The id of a row changes when its volume is not the same any more or has had other bytes: it was missing and is made
// again, others wrote to it, another owner adopts it, it was released. Checkpoint sets name the id, so none of them
// fits after that, and the disk is copied in full.
//
// # Leases
//
// Each use of a volume is under its lease, which has one holder at a time. The journal has it before anything is opened
// or started, and job.Lease.Apply says what may follow.
//
//	holder            uses                     its lease ends when
//	----------------  -----------------------  -------------------------------------------------------------------
//	this process      the open file            the kernel has let go of the file (direct.go)
//	one elsewhere     an export: Serve         its process was killed and waited for: Fence, or no Renew for its
//	                                           TTL, or the process ended by itself (serve.go, qsd.go)
//
// Open takes the lease for the job, and Handle says whether it is for a copy or a verification. Serve ends that and
// grants the next epoch to another node, on the same open file; when that is over, the next use by the job takes one
// again. An epoch that does not end, because a storage does not answer, keeps all others out.
//
// # What a crash leaves
//
//	at any time          leases that are not free. Recover ends them, and exports that survived, at the next start:
//	                     leftover.go says how they are known.
//	after Claim          a row of generation 0. The job goes on with it; if the job is gone, no other is held up.
//	within Prepare       perhaps a file that only holds zeros, and a row that says which job makes it: that job takes
//	                     it. A set that the round makes untrue was dropped before Prepare.
//	after Prepare        a stamp. The next Handle compares it; zeros are believed only if nothing was written since.
//	while Writing        a row whose stamp says nothing of the target. The job itself goes on from its checkpoint. If
//	                     the job ends in another way, and the stamp differs, the next round copies the disk in full.
//	after Settle         a stamp that holds: the next Handle or Confirm opens the target and compares.
//	after Confirm        the same. The set that is committed next names the row's id.
//	after the unlink     a row without a file; Purge again drops it.
//
// The kernel drops all locks with the process.
//
// # Locks
//
// One open file carries flock and the byte locks that QEMU knows, from Open to Release. Copy, verification and Confirm
// all use this one: a second open in this process would conflict with it. See nbd.LockWriter.
//
// # Who may call what
//
// Recover is called once, before all others. All methods of Volumes may be called from many goroutines. Claims are
// compared and stored one after the other. Calls for one disk of a job wait for each other; within this process it is
// the callers' matter that a target has one writer. Lazy, the target of a copy without a job, belongs to one goroutine
// and knows neither ledger nor lease.
package volumes
