package app

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vmferry/vmferry/actors"
	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/volumes"
)

// source inspects VMs and checks whether they could be moved. It changes nothing.
type source struct {
	*vcenter
	volumes *volumes.Volumes
	copies  actors.Transfers
	sets    actors.Sets
	root    string // folder for disks without a target
}

// Preflight makes the checks that a job makes first. It makes all of them, also after one has failed.
func (s source) Preflight(ctx context.Context, spec job.Spec) ([]rest.Check, error) {
	spec, err := spec.Normal()
	if err != nil {
		return nil, err
	}
	if err := s.probe(ctx); err != nil { // how it is now, not how it was when the session began
		return nil, err
	}
	c, err := s.client(ctx)
	if err != nil {
		return nil, err
	}
	out := []rest.Check{{Name: "vcenter", OK: true, Message: "logged in to " + c.Name()}}
	vm, err := c.Inspect(ctx, spec.VM)
	out = append(out, check("vm", err, fmt.Sprintf("%s, %d disks, %s", vm.Path, len(vm.Disks), vm.PowerState)))
	if err != nil {
		return out, nil //nolint:nilerr // the check holds the error
	}
	out = append(out, s.privileges(ctx, vm))
	for _, d := range vm.Disks {
		out = append(out, disk(d))
	}
	out = append(out, s.tracking(ctx, vm))
	return append(out, s.targets(ctx, spec, vm)...), nil
}

func check(name string, err error, message string) rest.Check {
	if err != nil {
		return rest.Check{Name: name, Message: err.Error(), Next: job.NextOf(err)}
	}
	return rest.Check{Name: name, OK: true, Message: message}
}

func (s source) privileges(ctx context.Context, vm job.VM) rest.Check {
	missing, err := s.Privileges(ctx, vm)
	if err == nil && len(missing) > 0 {
		err = job.Errorf("", job.Permission, "Give the vCenter user a role with them",
			"these privileges are missing: %s", strings.Join(missing, ", "))
	}
	return check("privileges", err, "the user has all that a job needs")
}

func disk(d job.Disk) rest.Check {
	var err error
	if d.Unfit != "" {
		err = job.Errorf("", job.Unsupported, "Take the disk off the VM or make it a dependent one", "%s", d.Unfit)
	}
	return check("disk "+string(d.ID), err, fmt.Sprintf("%s, %s, %s", d.Label, job.FormatSize(d.Capacity), d.File))
}

// tracking tells whether the first round moves everything or only changes.
func (s source) tracking(ctx context.Context, vm job.VM) rest.Check {
	if !vm.CBTEnabled {
		return check("cbt", nil,
			"changed block tracking is off; the job switches it on, and moves everything in its first round")
	}
	set, err := s.sets.Set(ctx, vm.UUID)
	text := "changed block tracking is on; nothing was moved before, so the first round moves everything"
	if err == nil && set != nil {
		text = fmt.Sprintf("changed block tracking is on; the last round of job %s can be continued", set.Job)
	}
	return check("cbt", err, text)
}

func (s source) targets(ctx context.Context, spec job.Spec, vm job.VM) []rest.Check {
	found, err := s.assigned(ctx, spec, vm)
	if err != nil {
		return []rest.Check{check("targets", err, "")}
	}
	var out []rest.Check
	for _, t := range found {
		text := t.target.URI + " will be made"
		if t.info.Exists {
			text = t.target.URI + " exists and is large enough"
		}
		if t.info.Foreign != "" {
			text += "; " + t.info.Foreign + ", so the disk is copied in full"
		}
		if t.info.OneNode {
			text += "; another program serves it, so its writes can't be fenced: this node alone copies to it, and " +
				"no other one takes over"
		}
		if t.info.Note != "" {
			text += "; " + t.info.Note
		}
		out = append(out, check("target "+string(t.target.Disk), errors.Join(s.copies.Ready(), t.err), text))
	}
	return out
}
