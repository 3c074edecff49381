// Package job holds the words that all other packages speak: ids, the specification of a job, its phases, disks,
// extents, progress, reports and kinds of error; and the rules by which a job moves from one phase to the next.
//
// It is pure. It knows no clock (time comes in as an argument), no network, no disk, no vCenter and no actor, and it
// imports only the standard library. What a number means is decided here and nowhere else.
//
// A job's way, walked by State.Apply:
//
//	queued -> preflight -> cbt -> snapshot -> connect -> transfer -> verify -> commit
//	    -> waiting (for the next round or the cut-over) -> cleanup -> completed
package job
