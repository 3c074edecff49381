// Package actors decides who does what when: lives, deaths and retries. It moves no byte itself, speaks no SOAP and no
// SQL; what it needs of the world are the small interfaces in needs.go.
//
//	Jobs                one for the node: accepts, finds, starts and resumes jobs; spawns one supervisor for each
//	└─ Job              supervisor of one job: folds events (job.State.Apply), makes the state durable, then acts
//	   └─ Disk          one attempt at one disk: owns the running copy, reports on a tick, and dies with it
//	Aggregator          newest value of each disk -> report of the job -> sinks (in-process, Redis, SQL)
//
// An event's way through a Job:
//
//	event -> Apply -> new state, actions -> Journal.Save -> tell the Aggregator -> carry out the actions
//
// Nothing here blocks in Receive: whatever waits for the outside runs in a goroutine that belongs to the actor
// (work.go), and its last act is one message. Failures that are expected are messages; a panic is a bug, stops the
// disk it happened in, and is treated as one more failure of that disk.
package actors
