package cli

import (
	"context"
	"errors"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// The exit codes. Scripts rely on them.
const (
	ExitOK          = 0
	ExitFailed      = 1
	ExitUsage       = 2
	ExitJobFailed   = 3 // the job or the copy failed
	ExitAuth        = 4
	ExitCancelled   = 5 // the job was cancelled
	ExitTimeout     = 6 // the job had not ended when we stopped waiting
	ExitConflict    = 7
	ExitNotFound    = 10
	ExitInterrupted = 130
)

// exitError is an error with an exit code. Nothing is written for a nil err: the command has written everything.
type exitError struct {
	code int
	err  error
}

// Exit is an error with an exit code. With a nil err the command ends without another word.
func Exit(code int, err error) error { return &exitError{code, err} }

func (e *exitError) Error() string {
	if e.err == nil {
		return "exit"
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// ran marks errors of a command's work. All other errors are about how the command was called.
type ran struct{ error }

func (r ran) Unwrap() error { return r.error }

// exitCode is the table from errors to exit codes.
func exitCode(err error) int {
	var e *exitError
	var r ran
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &e):
		return e.code
	case !errors.As(err, &r):
		return ExitUsage
	case errors.Is(err, context.Canceled):
		return ExitInterrupted
	}
	switch job.KindOf(err) {
	case job.Invalid:
		return ExitUsage
	case job.NotFound:
		return ExitNotFound
	case job.Conflict:
		return ExitConflict
	case job.Auth:
		return ExitAuth
	case job.Cancelled:
		return ExitCancelled
	case job.Internal, job.Permission, job.Unavailable, job.Timeout, job.IO, job.NoSpace, job.Corrupt, job.Unsupported,
		job.CBTInvalid, job.Missing, job.Fenced:
		return ExitFailed
	}
	return ExitFailed
}

// refused is the error of a request for a job that was not accepted. A VM, disk or target that a job may not or can't
// move is a wrong request.
func refused(err error) error {
	if k := job.KindOf(err); k == job.Permission || k == job.Unsupported {
		return &exitError{ExitUsage, err}
	}
	return err
}

// Outcome is the error, with its exit code, of a command that waited for a job; nil for a job that is completed or
// waits for the cut-over.
func Outcome(r report.Report) error {
	switch r.Status {
	case job.StatusCompleted, job.WaitingCutover:
		return nil
	case job.StatusCancelled:
		return &exitError{ExitCancelled, job.Errorf("", job.Cancelled, "Start it again with: vmferry retry "+
			string(r.JobID), "job %s was cancelled", r.JobID)}
	case job.StatusFailed, job.Lost:
		next, why := "See the reason with: vmferry describe "+string(r.JobID), ""
		if r.Error != nil {
			why = ": " + r.Error.Message
			if r.Error.Next != "" {
				next = r.Error.Next
			}
		}
		return &exitError{ExitJobFailed, job.Errorf("", job.Internal, next, "job %s %s%s", r.JobID, r.Status, why)}
	case job.Pending, job.Running, job.Paused, job.Unreachable:
		return &exitError{ExitTimeout, job.Errorf("", job.Timeout,
			"Watch it again with: vmferry watch "+string(r.JobID), "job %s is %s; it goes on", r.JobID, r.Status)}
	}
	return &exitError{ExitFailed, job.Errorf("", job.Internal, "", "job %s has an unknown status %q", r.JobID,
		r.Status)}
}
