// Package nbd copies and compares bytes between two block devices: NBD exports, files, local block devices. It knows no
// VM, no job's phases and no actor.
//
// # Words
//
//   - request: one command on one connection: read, write, zero, flush, or ask for block status. conn.go
//   - chunk: one read and all writes and requests to zero that follow from it; of zeros, without the read. thread.go
//   - planned range: a part of the disk that is all data or all zeros. A chunk carries out one. plan.go
//   - bulk zero: a part of the disk with many short holes, zeroed by one request; then its data is copied. bulk_zero.go
//   - thread: an event loop in one goroutine, over one connection to the source and one to the target. thread.go
//   - queue depth: how many threads work, and how much each has in flight; adapted while the copy runs. queue_depth.go
//   - in flight: a request from start to its answer; a chunk from its read to the target's last answer.
//   - acknowledged: the target has answered a write. durable: a flush that began after that answer has succeeded.
//   - progress snapshot: the acknowledged ranges at one instant, with counters and digests. track.go
//   - checkpointer: decides when to flush, and records what each flush made durable. checkpointer.go, checkpoint.go
//   - writeback: makes the kernel write a target file's pages to the disk all the time. writeback.go
//   - pass: the work over one set of connections. A lost connection ends it; the copy goes on with another pass.
//
// # A copy
//
//	open and lock the source, refuse an image of another format        device.go, lock.go, format.go
//	open the target if it is not open, compare sizes and ranges        copy.go, engine.go
//	load the checkpoint if there is one
//	repeat                                                             a pass
//	    read a few cells again that an earlier attempt has copied      recheck.go
//	    open more connections; plan what is left                       plan.go
//	    run all threads until the plan is done or one of them fails
//	    flush; if the flush or a thread failed, record what is durable
//	until the plan is done, or until new connections don't help        patience.go, errors.go
//	remove the checkpoint
//
// Each thread repeats this until the plan is done and nothing is in flight:
//
//	the first thread: flush if the checkpointer says so
//	while queue depth, memory, limiters, budget and backlog allow it:
//	    take a planned range: a retry that is due, or the next one of the plan
//	    begin a chunk: read data, or ask the target for zeros
//	the first thread: ask for block status if little data is known ahead
//	for each answer that has arrived:
//	    read:   split the bytes into data and zeros, write the data from the same buffer, zero the rest, hash
//	    write:  after the last answer of the chunk, add its range to the progress       zero.go, digest.go, tree.go
//	    flush:  record the progress snapshot that was taken before the flush
//	    error:  try the range again, later in smaller parts                             faults.go
//	if there was none: sleep in poll
//
// Verify uses the same threads. It reads both sides, whole or in samples, and compares the bytes. A full verification
// with the digests of the copy reads the target alone, and then only cells whose sums differ from both sides. verify.go
//
// # Order
//
// Nothing is promised about the order in which parts of a disk are read, written or reported. Threads work on different
// planned ranges at the same time, servers answer in any order, and retries come later. Only this is kept:
//
//   - The data of a bulk zero is written after the target has acknowledged the zeros.
//   - No two chunks in flight overlap.
//   - A flush covers what was acknowledged before it began, and a record is written after its flush.
//   - Copy returns without an error only after a flush of everything, if the target has a flush command.
//
// # Locks
//
// A local source is locked as QEMU's readers lock it. A local target comes open and locked (LockWriter); who opened it
// holds it until no copy and no verification uses it any more. One Target serves one copy or verification at a time.
// Exports have no locks.
//
// # Who may call what
//
// Copy and Verify may run for many disks at the same time; copies of one process share processors and connections
// (ADR 10). Each attempt has its own Meter, which any goroutine may read. A Budget and the limiters may be shared, and
// changed while copies run. Digests may be read once Copy has returned. Two copies must not use one checkpoint, and
// RemoveCheckpoint must not be called while a copy uses it.
//
// Within a copy, planner, tracker, faults, backlog, queueDepth and Budget are safe for all threads. All threads call
// the same step at the same time. A conn, its requests, chunks and buffers belong to one thread. While threads run,
// only the first one calls the checkpointer. A thread blocks in poll only: on files and block devices workers block in
// its place (fileconn.go), and another goroutine writes the records of the checkpointer.
//
// # Errors
//
// A requestError is one failed request. If its errno may go away (EIO, ETIMEDOUT, EAGAIN, ENOMEM, EINVAL, EINTR), the
// range is tried again: as a whole, in parts of 64 KiB, in parts of 4 KiB. A part that still fails is a bad range. The
// copy goes on around bad ranges, fails at the end and names them; after too many it gives up early. Any other errno
// ends the thread, and so does each failed flush. A target that can't zero after all gets zeros written instead. Where
// the source can't tell its block status, the range is read.
//
// A lostError is a connection that ended, or gave no sign of life for the deadline. All its requests fail with it, and
// the thread ends. A server that breaks the protocol loses its connection too, with EPROTO.
//
// The first thread that ends with an error cancels the others, and each waits a moment for its writes in flight. Then
// the pass flushes, if the target still answers, and records what is durable. If a connection was lost, and not by
// EPROTO, the copy opens both sides again, with growing pauses, until Task.Reconnect has passed without progress.
//
// Copy and Verify return a *job.Error: its Kind decides what the caller does, and errors.Is finds the errno. Every wait
// for a server has a deadline and ends early with the context.
//
// # What survives a crash
//
// The checkpoint names only ranges that were flushed before, and replaces the old file as a whole. After a kill or a
// power failure, the next Copy with the same Task goes on there and copies again what came after the checkpoint:
// usually 64 MiB or 2 s of work, at most about 256 MiB or a hundredth of the disk, unless checkpoints can't be written.
// Without a checkpoint the next call starts anew, but a lost connection costs only what was not flushed.
// Without a caller's identity, a checkpoint belongs to its source and its target: a local file that has another inode,
// or another export of the same server, is refused.
//
// A target that has restarted may have lost what it acknowledged and never flushed. So each new pass starts from the
// durable progress. After a failed flush, nothing more counts as durable in that pass. A checkpoint that is damaged, or
// belongs to another copy, is moved aside. The cells that are read again before a copy goes on show a target that has
// lost flushed data, and another disk in the place of the target or the source.
package nbd
