package app

import (
	"context"
	"errors"
	"time"

	"github.com/vmferry/vmferry/job"
)

// lookTime is the most that a request for a job waits for the vCenter and the targets. What is not known by then shows
// when the job runs.
const lookTime = 3 * time.Second

// refusal says why a job can never work as it was asked for: the first of the checks of a preflight that fails for a
// reason that waiting does not mend. It is nil if there is none, and if that can't be told within lookTime, as when the
// vCenter is away. It changes nothing. Errors are of kind Invalid, NotFound, Conflict, Auth, Permission, Unsupported or
// Missing.
func (s source) refusal(ctx context.Context, spec job.Spec) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	err := s.fits(ctx, spec)
	if ctx.Err() != nil || !final(err) {
		return nil
	}
	return err
}

// final says whether an error is about the request or the configuration, and stays until one of them changes.
func final(err error) bool {
	switch job.KindOf(err) {
	case job.Invalid, job.NotFound, job.Conflict, job.Auth, job.Permission, job.Unsupported, job.Missing:
		return true
	case job.Internal, job.Unavailable, job.Timeout, job.IO, job.NoSpace, job.Corrupt, job.CBTInvalid, job.Cancelled,
		job.Fenced:
		return false
	}
	return false // no error
}

// fits makes the checks of a preflight one after another, and ends with the first that fails.
func (s source) fits(ctx context.Context, spec job.Spec) error {
	spec, err := spec.Normal()
	if err != nil {
		return err
	}
	vm, err := s.Inspect(ctx, spec.VM)
	if err != nil {
		return err
	}
	found, err := s.assigned(ctx, spec, vm)
	if err != nil {
		return err
	}
	for _, t := range found {
		if t.err != nil {
			return job.Errorf("check target of "+string(t.target.Disk), job.KindOf(t.err), job.NextOf(t.err), "%w",
				t.err)
		}
	}
	if err := s.incremental(ctx, spec, vm, found); err != nil {
		return err
	}
	return s.copies.Ready()
}

// incremental refuses an incremental round where it is certain that some disk has to go full.
func (s source) incremental(ctx context.Context, spec job.Spec, vm job.VM, found []foundTarget) error {
	if spec.Mode != job.Incremental {
		return nil
	}
	set, err := s.sets.Set(ctx, vm.UUID)
	if err != nil {
		return err
	}
	for i, t := range found {
		if reason := job.NeverIncremental(vm, vm.Disks[i], t.target.URI, t.info, set); reason != "" {
			return job.Errorf("plan", job.Conflict, "Use mode auto or full",
				"an incremental round is not possible: %s: %s", t.target.Disk, reason)
		}
	}
	return nil
}

// foundTarget is the target of one disk, and what can be said of it before a job has it.
type foundTarget struct {
	target job.Target
	info   job.TargetInfo
	err    error // why a job can't use it
}

// assigned gives each disk of the VM, in their order, its target, and looks at it.
func (s source) assigned(ctx context.Context, spec job.Spec, vm job.VM) ([]foundTarget, error) {
	known, err := s.volumes.Known(ctx, job.OwnerOf(vm))
	if err != nil {
		return nil, err
	}
	targets, err := job.Assign(spec, vm, s.root, known)
	if err != nil {
		return nil, err
	}
	out := make([]foundTarget, 0, len(targets))
	for i, t := range targets {
		owner := job.OwnerOf(vm)
		owner.Disk = t.Disk
		info, err := s.volumes.Check(ctx, job.VolumeClaim{
			VolumeRef: job.VolumeRef{Disk: t.Disk, Target: t.URI, Capacity: vm.Disks[i].Capacity}, Owner: owner,
			Adopt: spec.Options.Adopt,
		})
		if spec.Options.Strict && info.Foreign != "" {
			err = errors.Join(err, job.Errorf("", job.Conflict,
				"Find out who did it; without --strict a job copies the disk in full", "%s", info.Foreign))
		}
		out = append(out, foundTarget{t, info, err})
	}
	return out, nil
}
