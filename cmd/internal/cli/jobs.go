package cli

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

// find finds the job that a word of the command line means: a job id, or a VM by name, inventory path, UUID or managed
// object id. Of a VM it is the one job for which fits returns true; if there is none, the newest job of the VM. A job
// of another tool is found by its id only if no VM is named so. Errors are of kind NotFound, and Conflict if several
// jobs fit.
func find(ctx context.Context, c *rest.Client, text string, fits func(report.Report) bool) (report.Report, error) {
	var external *report.Report
	id, idErr := job.ParseID(text)
	if idErr == nil {
		r, err := c.Job(ctx, id)
		switch {
		case err == nil && r.Origin == report.External: // its tool chose the id, which may be the name of a VM
			external = &r
		case job.KindOf(err) != job.NotFound:
			return r, err
		}
	}
	const op = "find a job"
	all, err := jobs(ctx, c, jobFilter{vm: text})
	if err != nil {
		return report.Report{}, err
	}
	all = slices.DeleteFunc(all, func(r report.Report) bool {
		return !slices.Contains([]string{r.VM.Name, r.VM.Path, r.VM.Ref}, text) && !strings.EqualFold(r.VM.UUID, text)
	})
	if len(all) == 0 && external != nil {
		return *external, nil
	}
	if len(all) == 0 {
		return report.Report{}, job.Errorf(op, job.NotFound, "See vmferry get jobs",
			"no job or VM of a job is named %q", Clip(text, 80))
	}
	var fit []report.Report
	for _, r := range all {
		if fits(r) {
			fit = append(fit, r)
		}
	}
	switch len(fit) {
	case 0:
		return all[0], nil // the newest
	case 1:
		return fit[0], nil
	}
	if !slices.ContainsFunc(fit, func(r report.Report) bool { return r.VM.UUID != fit[0].VM.UUID }) {
		return fit[0], nil
	}
	return report.Report{}, job.Errorf(op, job.Conflict, "Name one by its id",
		"%d jobs move a VM named %q: %s", len(fit), Clip(text, 80), strings.Join(names(fit), ", "))
}

func names(all []report.Report) []string {
	out := make([]string, len(all))
	for i, r := range all {
		out[i] = string(r.JobID)
	}
	return out
}

// allows is a job to which a verb can be given now.
func allows(v job.Verb) func(report.Report) bool {
	return func(r report.Report) bool { return slices.Contains(r.Allowed, v) }
}

// unfinished is a job that has not ended.
func unfinished(r report.Report) bool { return !Ended(r) }

// named puts the name of a job or VM in front of an error if there are several.
func named(name string, of int, err error) error {
	if of < 2 || err == nil {
		return err
	}
	return job.Errorf("", job.KindOf(err), job.NextOf(cause(err)), "%s: %w", name, err)
}

// worst joins two errors. The exit code and the next step are those of the first.
func worst(a, b error) error {
	switch {
	case a == nil:
		return b
	case b == nil, silent(b):
		return a
	case silent(a):
		return &exitError{exitCode(ran{a}), b}
	}
	return &exitError{exitCode(ran{a}), job.Errorf("", job.KindOf(cause(a)),
		cmp.Or(job.NextOf(cause(a)), job.NextOf(cause(b))), "%w\n%w", a, b)}
}

// silent says whether an error is an exit code without words.
func silent(err error) bool {
	var e *exitError
	return errors.As(err, &e) && e.err == nil
}

// outcomes is Outcome for several jobs: nil if all are completed or wait, else the exit code of a job that failed; of
// one that was cancelled if none failed; else of one that has not ended.
func outcomes(all []report.Report) error {
	if len(all) == 1 {
		return Outcome(all[0])
	}
	var said []string
	code, next := ExitOK, ""
	for _, r := range all {
		err := Outcome(r)
		if err == nil {
			continue
		}
		said = append(said, err.Error())
		if c := exitCode(err); code == ExitOK || c < code {
			code, next = c, job.NextOf(cause(err))
		}
	}
	if len(said) == 0 {
		return nil
	}
	return &exitError{code, job.Errorf("", job.Internal, next, "%d of %d jobs are not completed:\n  %s", len(said),
		len(all), strings.Join(said, "\n  "))}
}

// exclusive refuses a flag that is for one job if several are named.
func exclusive(flag string, args []string) error {
	if len(args) > 1 {
		return Usage("%s is for one job, and %d are named", flag, len(args))
	}
	return nil
}
