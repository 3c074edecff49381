package messages

import "github.com/vmferry/vmferry/job"

// To the Jobs actor.
type (
	// Submit asks for a new job. Answered by Submitted.
	Submit struct {
		ID             job.ID // "" lets us make one
		Spec           job.Spec
		IdempotencyKey string // "" for none
		BodyHash       string // of the request that carried the key
	}
	// Submitted is the answer to Submit.
	Submitted struct {
		ID       job.ID
		Existing bool // the same key and body came before; nothing was made
		Err      error
	}
	// Command asks a job to do something. Answered by Answer.
	Command struct {
		ID    job.ID
		Asked job.CommandReceived
	}
	// Limit changes limits of a job. Answered by Answer.
	Limit struct {
		ID      job.ID
		Limited job.Limited
	}
	// Rehearse makes the actor of a running disk panic. Answered by Answer.
	Rehearse struct {
		ID   job.ID
		Disk job.DiskID
	}
	// Limits changes how many jobs run at the same time.
	Limits struct{ Jobs int }
	// Needed asks which snapshots jobs need, or may need. Answered by Snapshots.
	Needed struct{}
	// Snapshots are the names of those that jobs need, and the jobs that are known here.
	Snapshots struct {
		Names map[string]bool
		Jobs  map[job.ID]bool
	}
	// Answer says whether what was asked for was accepted.
	Answer struct{ Err error }
	// PhaseChanged is a job's word on where it is now.
	PhaseChanged struct {
		ID       job.ID
		Phase    job.Phase
		Snapshot string // name of the VM snapshot that the job has or may have; "" for none
	}
)
