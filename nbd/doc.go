// Package nbd copies bytes between two block devices: NBD exports, files, local block devices. It also starts and stops
// the nbdkit processes that such bytes are read from. It knows no VM, no job's phases and no actor.
//
// One copy, in short:
//
//	open source and target, compare sizes            device.go
//	plan: what is data, what is zero                 plan.go, by block status where the server can tell
//	threads, one event loop per pair of connections    thread.go, over socket.go, nbdconn.go or fileconn.go
//	    find out how much to keep in flight          queueDepth.go
//	    read from the source, and hash               digest.go, tree.go
//	    split into data and zeros                    zero.go
//	    write to the target, out of the same buffer
//	    count what the target acknowledged           track.go
//	    try again what failed, in smaller parts      faults.go
//	now and then: flush, then record what is durable checkpointer.go, checkpoint.go
//	at the end: flush, whatever happened             copy.go
//	if a connection was lost: all of it once more    copy.go, patience.go
//
// Every wait has a deadline and ends early with the context. Nothing is promised about the order in which parts of a
// disk are written.
package nbd
