package messages

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// To the Jobs actor.
type (
	// Submit asks for a new job. Answered by Submitted.
	Submit struct {
		ID             job.ID // "" for a new one
		Spec           job.Spec
		IdempotencyKey string // "" for none
		BodyHash       string // of the request that carried the key
	}
	// Submitted is the answer to Submit.
	Submitted struct {
		ID       job.ID
		Existing bool // the same key and body came before: ID is that earlier job
		Err      error
	}
	// Command is a command to a job. Answered by Answer.
	Command struct {
		ID       job.ID
		Received job.CommandReceived
	}
	// Limit changes limits of a job. Answered by Answer.
	Limit struct {
		ID      job.ID
		Limited job.Limited
	}
	// Rehearse makes the Disk actor of a running disk panic. Jobs passes it on to the Job. Answered by Answer.
	Rehearse struct {
		ID   job.ID
		Disk job.DiskID
	}
	// Limits changes how many jobs run at the same time.
	Limits struct{ Jobs int }
	// AskSnapshots asks which snapshots jobs need, or may need. Answered by Snapshots.
	AskSnapshots struct{}
	// Snapshots are the VM snapshots that jobs have or may have.
	Snapshots struct{ Held []job.SnapshotRef }
	// Answer says whether a request was accepted: Err is nil if it was.
	Answer struct{ Err error }
	// PhaseChanged is the phase and the snapshot of a job. A Job sends it when it starts and after each event.
	PhaseChanged struct {
		ID       job.ID
		Created  time.Time // when the job was accepted; tells it from another one of its id
		Seq      int64     // of the state; an older one changes nothing
		Phase    job.Phase
		Since    time.Time       // when the phase began
		Snapshot job.SnapshotRef // the VM snapshot that the job has or may have; zero for none
	}
)
