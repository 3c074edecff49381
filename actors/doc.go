// Package actors runs jobs: who starts, stops and retries what. It carries out the actions that package job asks for,
// and hands their results back as events. It must not know a byte of a disk, SOAP or SQL: it needs the interfaces in
// ports.go.
//
// # The actors of a node
//
//	jobs                      Jobs: accepts, starts, resumes and finds jobs             jobs.go
//	└─ <job>                  Job: applies events, makes states durable, begins         job.go, job_steps.go
//	   │                      actions; supervises its Disks
//	   └─ <disk>-<kind>-      Disk: one attempt; requests a transfer, watches it,       disk.go
//	      <round>.<attempt>   sends the result to its Job; kind is move or verify
//	transfers                 transfers: spawns transfers, one at a time for each disk  transfers.go
//	└─ <job>/<disk>@          transfer: copies or reads back, in a goroutine; sends     transfer.go
//	   <attempt>              progress
//	aggregator                Aggregator: newest state and progress of each job ->      aggregator.go, sink_writer.go
//	                          report -> sinks, and lines of the log                    step_log.go
//
//	watchers                  Watchers: the parent of a Watcher for each node           watchers.go
//	└─ <node>                 Watcher: follows one of our nodes, or polls an older VMA  watcher_follow.go,
//	                                                                                    watcher_poll.go
//
// node.go starts and stops them. The snapshot reaper is a goroutine beside them.
//
// # The way of an event through a Job
//
//	event -> State.Apply -> new state, actions
//	      -> Journal.Save, in a goroutine; events that come meanwhile are queued
//	      -> Changed to the Aggregator, PhaseChanged to Jobs, Answer to the caller
//	      -> the actions begin: a step in a goroutine, a Disk, a timer
//	      -> their results come back as events
//
// While the journal can't write, the Job tries again and begins nothing. What runs goes on.
//
// # The way of a target
//
//	Jobs       -> Targets.Claim     at a request, in a goroutine: the targets that it names; with it the job is stored
//	Job        -> Targets.Claim     preflight: all targets, when the VM is known
//	Job        -> Targets.Open      connect: what each target is now decides full or incremental
//	Job        -> Targets.Prepare   connect: after a set that the round makes untrue was dropped
//	transfer   the engine takes the open target at its begin, and settles it before TransferEnded
//	Job        -> Targets.Confirm   commit: after the look at the snapshot, before the set is stored
//	Job        -> Targets.Release   when the job needs them no more; also at the start of a Job, for one that panicked
//
// # The way of a transfer
//
//	Job        spawns the Disk
//	Disk       -> transfers   StartTransfer
//	transfers  stops the transfer of an earlier attempt at the same disk, if one still runs, and waits for its end
//	transfers  spawns <job>/<disk>@<attempt>
//	transfers  -> Disk        TransferStarted, with the transfer as its sender; the Disk watches the transfer
//	transfer   -> Aggregator  Progress, on a tick
//	transfer   -> Disk        TransferEnded: its goroutine has ended, nothing reads or writes any more
//	Disk       stops the transfer and waits for its Terminated
//	Disk       -> Job         DiskEnded, with DiskMoved, DiskVerified or AttemptFailed
//	Job        stops the Disk
//
// Stop goes from the Job to the Disk and on to the transfer, and cancels the context of the copy. The copy flushes,
// records what is durable, and ends as above. A transfer also ends when its Disk does.
//
// The order of messages matters: a Terminated overtakes messages that its actor sent before. So an actor whose last
// message counts stays alive until the receiver has taken it, and is stopped by the receiver.
//
// # The way of a watched job
//
//	node       -> Watcher     its reports, over one stream that goes on where it was; or the answer to a poll
//	Watcher    applies Link or Poll of package report: what is shown, and when to try again
//	Watcher    -> Aggregator  Watched: the report as it is to be shown, with its node; Unwatched for one that is gone
//
// # Who may block
//
// Receive never blocks. All waiting is in goroutines that belong to an actor (work.go); at its end a goroutine sends
// one message to its actor. The exceptions are in the end of an actor, after its last message:
//
//	transfer.leave    waits for its goroutine: after that nothing writes to the target
//	supervisor.leave  waits for the goroutines of its step and its save: after that nothing acts for the job
//	aggregator.leave  waits up to 2 s for the sinks to take the last reports
//
// A sink that is Immediate gets reports inside of Receive: it must not block.
//
// # Failures
//
// A failure that can be expected is a message, and package job decides what follows. A panic is a fault of vmferry:
//
//	of a Watcher    Watchers stops it and spawns it again after a second: it asks its node for everything
//	in a goroutine  the step or the attempt fails with kind Internal
//	of a transfer   transfers stops it and sends TransferCrashed to its Disk: the attempt fails with kind Internal
//	of a Disk       its Job stops it, has transfers end the transfer, and waits for that (EndTransfers); then the
//	                attempt fails with kind Internal
//	of a Job        Jobs stops it and its Disks, and spawns it again from the journal, as after a restart of the
//	                daemon: after a pause that grows, and 8 times in a row at most (revive.go). The new Job has the
//	                transfers of the old one ended before it applies its first event. Then it stands still: its
//	                transfers are ended, its targets are released, and its report says failed; a retry or a cancel
//	                begins it anew
//	of a root       Jobs, transfers, Aggregator, Watchers: the node ends (root.go), and the next one goes on from the
//	                journal.
//	                What such an actor had in memory is not believed, and nothing of it is published
//
// # Stop
//
// Node.Stop ends the context of all goroutines, then stops watchers, jobs, transfers and aggregator, in this order, and
// waits for each. Events that come meanwhile are refused, so the journal keeps the state from before, and the next
// Start goes on.
package actors
