// Package messages holds the messages between actors, one file for each receiver. Each type says who answers and with
// what. They are plain values: no pointer that the sender keeps, no function, no client. Messages from an actor to
// itself stay in package actors.
//
//	to          messages                                                     from
//	Jobs        Submit, Command, Limit, Rehearse, Limits                     the node's methods
//	            AskSnapshots                                                 the snapshot reaper
//	            PhaseChanged                                                 Job
//	            TransfersOver                                                transfers
//	Job         Admit, Ask, Rehearse                                         Jobs
//	            DiskEnded                                                    Disk
//	            TransfersOver                                                transfers
//	Disk        Stop, Panic                                                  Job
//	            TransferStarted, TransferCrashed                             transfers
//	            TransferEnded                                                transfer; transfers if it can't start one
//	transfers   StartTransfer                                                Disk
//	            EndTransfers                                                 Job, Jobs
//	            LimitJob                                                     Job
//	            Forget                                                       Jobs
//	transfer    Stop                                                         Disk
//	Aggregator  Changed                                                      Job
//	            Progress                                                     transfer
//	            External                                                     the node's methods
//	            Forget, Crashed                                              Jobs
//	            Watched, Unwatched                                           Watcher
//	Watchers    WatchJob, UnwatchJob                                         the node's methods
//	Watcher     WatchJob, UnwatchJob                                         Watchers
//
// Answers are Submitted, Snapshots and Answer. A receiver may be gone when a message arrives: types with the method
// IgnoreDeadLetterLogging are then dropped without a line in the log.
package messages
