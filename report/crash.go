package report

import (
	"time"

	"github.com/vmferry/vmferry/job"
)

// crash is a panic of the actor of a job.
type crash struct {
	cause job.Failure
	until time.Time // when it begins again from the journal; zero if it does not by itself
}

// Crashed takes that the actor of the job panicked, and when it begins again from the journal; the zero time means that
// it does not begin again by itself. The next Changed says that it has begun.
func (b *Builder) Crashed(cause job.Failure, until time.Time) { b.crash = &crash{cause, until} }

// addCrash shows a job without an actor as what it is: nothing of it runs. Before its next life it is retrying. If
// there is none, it has failed, though its state in the journal has not. A job that had ended stays as it was.
func (b *Builder) addCrash(r *Report) {
	switch {
	case b.crash == nil:
		return
	case b.state.Phase.Terminal():
		r.Notes = append(r.Notes, b.crash.cause.Message)
		return
	}
	r.Error = errorOf(&b.crash.cause)
	r.Health, r.Allowed = []Health{}, []job.Verb{job.Retry, job.Cancel}
	r.abandon()
	r.Wait, r.SampledAt, r.Load = nil, nil, Load{}
	for i := range r.Disks {
		r.Disks[i].Wait = nil
	}
	if !b.crash.until.IsZero() {
		r.Health = append(r.Health, Retrying)
		r.Operation = "begins again from the journal after a fault of vmferry"
		return
	}
	r.Status, r.EndedAt = job.StatusFailed, stamp(b.crash.cause.At)
	r.Operation = "stands still after a fault of vmferry"
}
