package main

import (
	"context"
	"errors"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// The exit codes. They are part of what scripts rely on.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitJobFailed   = 3 // the job or the copy failed
	exitAuth        = 4
	exitCancelled   = 5 // the job was cancelled
	exitTimeout     = 6 // it did not happen while we waited; it may still
	exitConflict    = 7
	exitNotFound    = 10
	exitInterrupted = 130
)

// exitError is an error that knows its exit code. A nil err says nothing more than the code: everything is said
// already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return "exit"
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// ran marks errors of a command that was understood; all others are about how it was called.
type ran struct{ error }

func (r ran) Unwrap() error { return r.error }

// exitCode is the one table from errors to exit codes.
func exitCode(err error) int {
	var e *exitError
	var r ran
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e):
		return e.code
	case !errors.As(err, &r):
		return exitUsage
	case errors.Is(err, context.Canceled):
		return exitInterrupted
	}
	switch job.KindOf(err) {
	case job.Invalid:
		return exitUsage
	case job.NotFound:
		return exitNotFound
	case job.Conflict:
		return exitConflict
	case job.Auth:
		return exitAuth
	case job.Cancelled:
		return exitCancelled
	case job.Internal, job.Permission, job.Unavailable, job.Timeout, job.IO, job.NoSpace, job.Corrupt, job.Unsupported,
		job.CBTInvalid, job.Missing:
		return exitFailed
	}
	return exitFailed
}

// outcome is the exit of a command that waited for a job.
func outcome(r report.Report) error {
	switch r.Status {
	case job.StatusCompleted, job.WaitingCutover:
		return nil
	case job.StatusCancelled:
		return &exitError{exitCancelled, job.Errorf("", job.Cancelled, "Start it again with: vmferry retry "+
			string(r.JobID), "job %s was cancelled", r.JobID)}
	case job.StatusFailed, job.Lost:
		next, why := "See what happened with: vmferry describe "+string(r.JobID), ""
		if r.Error != nil {
			why = ": " + r.Error.Message
			if r.Error.Next != "" {
				next = r.Error.Next
			}
		}
		return &exitError{exitJobFailed, job.Errorf("", job.Internal, next, "job %s %s%s", r.JobID, r.Status, why)}
	case job.Pending, job.Running, job.Paused, job.Unreachable:
		return &exitError{exitTimeout, job.Errorf("", job.Timeout, "Look again with: vmferry watch "+string(r.JobID),
			"job %s is %s; it goes on", r.JobID, r.Status)}
	}
	return &exitError{exitFailed, job.Errorf("", job.Internal, "", "job %s has an unknown status %q", r.JobID,
		r.Status)}
}
