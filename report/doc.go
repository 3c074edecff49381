// Package report holds what is shown of a job: the Report, and the two builders that make reports. A Report is the wire
// form of a job everywhere: in the API, in events, in Redis, in the command line's JSON. It must not know how a job is
// decided (package job), run (actors), stored or served. It imports only job and the standard library, and reads no
// clock: time comes in as an argument.
//
//	job.State, Progress of each running disk  ->  Builder          ->  Report of a job of this node
//	Update that another copy tool posts       ->  ExternalBuilder  ->  Report of a job of that tool
//
// # Who calls it
//
//	actors        the Aggregator keeps one builder for each job, sets Epoch and Seq, and hands reports to the sinks
//	store         keeps the newest Report of each job: in this process, in Redis, in the journal
//	http, app     serve them; http builds the report of a job that the Aggregator has not reported yet
//	cmd/vmferry   prints them
//
// # What the numbers mean
//
// Sizes are bytes, shares are from 0 to 1, percents from 0 to 100. null is unknown. Within a round of a job of this
// node the first group never decreases, also not over a restart of the daemon or by late progress.
//
//	overall_percent           of the whole job; never decreases, also not over rounds; 100 only when completed
//	bytes_transferred         acknowledged by the targets in this round
//	bytes_skipped             found zero at the source while reading, or already zero on the target
//	bytes_resent              sent again after restarts: sent in this round - bytes_transferred
//	bytes_durable             flushed and recorded in the checkpoint: a crash does not lose them
//	bytes_verified            read back and compared
//
//	bytes_capacity            sum over the disks
//	bytes_to_transfer         what this round must handle, fixed when it is planned
//	percent                   (bytes_transferred + bytes_skipped) / bytes_to_transfer; 100 only when all disks are
//	                          copied and flushed
//	sampled_at                when these numbers were taken; their age is the daemon's time (header Vmferry-Time)
//	                          minus that
//	bytes_per_second          what running attempts have sent in the last 5 s, or since they began, but over 1 s at
//	                          least. What was there when an attempt began, and what came in a longer time without
//	                          samples, counts nothing. null when nothing has moved for 5 s, and while no attempt
//	                          copies
//	bytes_per_second_average  likewise over 60 s; null with it. Of an external job since its start
//	bytes_per_second_peak     highest bytes_per_second of the job
//	eta_seconds, eta_at       until the bytes of this round are on the targets: the ETA of the slowest disk, by what
//	                          was sent and skipped in the last 60 s. null while a disk with bytes left has none,
//	                          without a speed, and beyond 100 days
//	load                      shares of the last 5 s in which all work waited for the source, the target, a bandwidth
//	                          limit; of a job the mean over its running disks, and while none runs that of the round
//	rounds[].load             likewise of all copies of the round, over all disks and attempts
//	silent_since              last sign of life of the side in waiting_for, if that was 5 s ago and a request to it
//	                          is under way
//	stalled_since             last byte or finished request, if that was 60 s ago and no limit holds the disk back; of
//	                          a step its begin, if that was 60 s ago (10 min while a snapshot is removed)
//	health                    retrying is what the state says, and holds at once. What is measured comes when its
//	                          condition held for its time without a break (throttled, degraded 2 s; silent 5 s; stale
//	                          15 s; stalled 60 s), and goes when it did not hold for 2 s. Another phase, round or
//	                          pause ends them at once, degraded excepted. A job that has ended has none
//	attempt                   of the disk in this round, from 1
//	restarts                  attempts of the disk that failed and were retried, over the rounds
//	round                     from 1; 0 before the first
//	epoch, seq                the version: a higher epoch is newer, then a higher seq (Version)
package report
