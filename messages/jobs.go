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
		ID   job.ID
		Verb job.Verb
	}
	// Limit changes the bandwidth of a job, in bytes per second; 0 for no limit. Answered by Answer.
	Limit struct {
		ID        job.ID
		Bandwidth int64
	}
	// Answer says whether what was asked for was accepted.
	Answer struct{ Err error }
	// PhaseChanged is a job's word on where it is now.
	PhaseChanged struct {
		ID    job.ID
		Phase job.Phase
	}
)
