// Package store keeps state: jobs in a Journal, their reports in projections.
//
//	actors -> Journal   SQLite file: states, events, checkpoint sets, settings, the last report of each job
//	       -> Memory    newest report of each job, recent reports, readers that follow (SSE, CLI)
//	       -> Redis     the same reports for other programs: hash, stream, pub/sub
//
// The Journal is the truth. Its methods return when the write is durable, and the caller acts only then:
//
//	state, event := apply(command)
//	journal.Save(state, event)        // both or neither; refused unless state.Seq is the stored one plus one
//	publish(report of state)          // to each projection
//
// A projection can be lost at any time and is filled again by publishing the newest reports. A report has a version:
// the epoch (one run of the daemon), then the seq (a count within it). Every store leaves out a report of an older
// version than it has, so that a late writer changes nothing.
//
// Methods of all three types may be called by many goroutines at once. The Journal makes one write after another; its
// reads use other connections. Memory never waits for a reader. A call of Redis takes at most half a second for each 64
// reports.
//
// The package knows the types of packages job and report and how to write them down. It must not know actors, vCenters,
// bytes of disks or HTTP. It decides nothing about a job, except which of two writers came first.
package store
