package messages

import (
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// To the Watchers actor, which passes them on to the Watcher of the node. Both are answered by Answer.
type (
	// WatchJob begins to ask an older VMA for a job, with the grace of one that has not started. A job that is asked
	// for already, and has not ended, goes on as it is. NotFound if there is no such node, Conflict if it is one of
	// ours: its jobs are known by themselves.
	WatchJob struct {
		Node string
		ID   job.ID
	}
	// UnwatchJob forgets a job that is watched. The node's own job stays.
	UnwatchJob struct {
		Node string
		ID   job.ID
	}
)

// To the Aggregator, from a Watcher.
type (
	// Watched is a report of a job that another node runs, as it is to be shown.
	Watched struct{ Report report.Report }
	// Unwatched drops a job of a node.
	Unwatched struct {
		Node string
		ID   job.ID
	}
)

// IgnoreDeadLetterLogging tells protoactor not to log the message as a dead letter.
func (Watched) IgnoreDeadLetterLogging() {}

// IgnoreDeadLetterLogging tells protoactor not to log the message as a dead letter.
func (Unwatched) IgnoreDeadLetterLogging() {}
