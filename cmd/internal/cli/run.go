package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/report"
)

const runHelp = `Sends the daemon a job to move a VM, and watches the job until it ends. VM is an inventory path, a
UUID, a managed object id or a unique name. Several VMs become several jobs, which are watched together.

The first job of a VM moves everything. A later job moves only what has changed since, if change tracking allows that.
With --cutover manual the job waits after the first round for vmferry sync (one more round) or vmferry cutover (the last
round), and run ends with exit code 0. A name that also looks like a UUID or an id has to lead to one VM; run says which
one it moves.

Without --target each disk becomes a raw file below the daemon's first allowed root, in a folder with the VM's name and
instance UUID. The path is chosen the first time, and stays when the VM is renamed.

A target belongs to one disk of one VM; vmferry volumes lists them all. A target of another VM, or one with data that no
job wrote, is refused; --adopt takes it over and overwrites its data. A target that a job which has not ended uses is
always refused. If others have written to a target since its last round, the disk is copied in full; with --strict the
job fails instead.

A request that cannot work is refused with the reason and the next step, and nothing is changed: exit code 2 for a
wrong request (a name of several VMs, a target that is not allowed or too small, a disk that can't be copied), 4 if the
vCenter refuses the login, 7 if the VM has a job that has not ended, if a target belongs to others, or if an incremental
round is not possible, 10 if there is no such VM. What can't be known yet, as while the vCenter is away, shows when the
job runs: exit code 3 if it fails, 5 if it is cancelled. Ctrl-C ends only the watching, not the job, with exit code
130.`

const runExample = `  vmferry run /DC0/vm/web
  vmferry run web --target disk-2000=/srv/web.raw --target disk-2001=nbd+unix:///?socket=/run/exports/web
  vmferry run web --cutover manual --bandwidth 200MiB
  vmferry run web --target disk-2000=/dev/vg/web --adopt
  vmferry run web --strict --verify full
  vmferry run web db mail --cutover manual
  vmferry run web --no-wait -o name`

type runFlags struct {
	targets   []string
	mode      string
	verify    string
	quiesce   bool
	bandwidth string
	disks     int
	cutover   string
	patience  patienceFlags
	adopt     bool
	strict    bool
	id        string
	key       string
	node      string
	wait      bool
	noWait    bool
}

func newRunCommand(s Streams) *cobra.Command {
	c := &cobra.Command{
		Use: "run VM...", Short: "Move VMs and watch them", Long: runHelp, Example: runExample,
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	at, show, out, w := serverFlag(c, s), ProgressFlag(c), OutputFlag(c, AsName, AsJSON, AsYAML), waitFlags(c)
	f := &runFlags{}
	f.add(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		specs, err := f.specs(args)
		if err != nil {
			return err
		}
		cl, err := at.client()
		if err != nil {
			return err
		}
		v, err := show.View(s)
		if err != nil {
			return err
		}
		accepted, why := submitAll(c.Context(), cl, specs, f)
		for _, r := range accepted {
			if out.form == AsName {
				fmt.Fprintln(s.Out, r.JobID)
			}
		}
		switch {
		case len(accepted) == 0:
			return why
		case !f.noWait && f.wait:
			if w.until == "" && specs[0].Options.Cutover == job.CutoverManual {
				w.until = string(job.WaitingCutover)
			}
			return worst(why, w.toEnd(c.Context(), s, cl, out, idsOf(accepted), v))
		case out.Structured():
			return worst(why, out.one(s.Out, accepted))
		default:
			return why
		}
	}
	return c
}

// submitAll submits a job for each spec. It returns the jobs that were accepted, and why others were not.
func submitAll(ctx context.Context, cl *rest.Client, specs []job.Spec, f *runFlags) (accepted []report.Report,
	why error,
) {
	for _, spec := range specs {
		r, _, err := cl.Submit(ctx, spec, rest.SubmitOptions{ID: job.ID(f.id), IdempotencyKey: f.key, Node: f.node})
		if err != nil {
			why = worst(why, named(spec.VM, len(specs), refused(err)))
			continue
		}
		accepted = append(accepted, r)
	}
	return accepted, why
}

func idsOf(all []report.Report) []job.ID {
	ids := make([]job.ID, len(all))
	for i, r := range all {
		ids[i] = r.JobID
	}
	return ids
}

// naming says which VM each job moves, as soon as the daemon has found it: its name may mean another one than was
// thought.
type naming struct {
	View
	said map[job.ID]bool
}

func (n *naming) Show(r report.Report) error {
	if !n.said[r.JobID] && r.VM.Ref != "" {
		if n.said == nil {
			n.said = map[job.ID]bool{}
		}
		n.said[r.JobID] = true
		n.Say(fmt.Sprintf("moves %s (%s)", OneLine(r.VM.Path), r.VM.Ref))
	}
	return n.View.Show(r)
}

// toEnd follows jobs that were just submitted, and names the next commands of those that wait for the cut-over.
func (w *wait) toEnd(ctx context.Context, s Streams, c *rest.Client, out *Output, ids []job.ID, v View) error {
	all, err := w.follow(ctx, s, c, ids, &naming{View: v})
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.Status == job.WaitingCutover {
			s.Say("the targets are up to date. One more round: vmferry sync %s; the last round: vmferry cutover %s",
				r.JobID, r.JobID)
		}
	}
	return w.finish(s, out, all)
}

// add adds all flags of run.
func (f *runFlags) add(c *cobra.Command) {
	f.addSpec(c)
	fs := c.Flags()
	fs.StringVar(&f.id, "job-id", "", "id of the job (default: a new id)")
	fs.StringVar(&f.key, "idempotency-key", "", "for 24 hours, the same key and request give the same job")
	fs.StringVar(&f.node, "node", "",
		"at an OMA: the node that runs the job (default: the one whose vCenter has the VM)")
	fs.BoolVar(&f.wait, "wait", true, "watch until the job ends")
	fs.BoolVar(&f.noWait, "no-wait", false, "return as soon as the job is accepted")
	c.MarkFlagsMutuallyExclusive("wait", "no-wait")
}

// addSpec adds the flags that describe the job.
func (f *runFlags) addSpec(c *cobra.Command) {
	fs := c.Flags()
	fs.StringArrayVar(&f.targets, "target", nil,
		"DISK=URI: where a disk goes, as a file, a block device or an NBD URI; once for each disk")
	fs.StringVar(&f.mode, "mode", "auto", "what moves: auto, full, incremental")
	fs.StringVar(&f.verify, "verify", "sample", "what is read back and compared: none, sample, full")
	fs.BoolVar(&f.quiesce, "quiesce", true, "ask the guest to quiesce its file systems for the snapshot")
	fs.IntVar(&f.disks, "disks", 0, "most disks that are copied at the same time (default all)")
	fs.StringVar(&f.bandwidth, "bandwidth", "", "most bytes per second over all disks, as in 200MiB")
	f.patience.add(c)
	fs.StringVar(&f.cutover, "cutover", "auto",
		"auto: the job ends after one round; manual: it waits for sync and cutover")
	fs.BoolVar(&f.adopt, "adopt", false,
		"take over targets that belong to another VM or hold data of others, and overwrite them")
	fs.BoolVar(&f.strict, "strict", false,
		"fail, instead of copying a disk in full, if others have written to its target")
}

// specs makes the jobs of the flags, one for each VM. Targets, ids and keys are of one job.
func (f *runFlags) specs(vms []string) ([]job.Spec, error) {
	if len(vms) > 1 && (len(f.targets) > 0 || f.id != "" || f.key != "") {
		return nil, Usage("--target, --job-id and --idempotency-key are for one VM, and %d are named", len(vms))
	}
	specs := make([]job.Spec, 0, len(vms))
	for _, vm := range vms {
		if slices.ContainsFunc(specs, func(s job.Spec) bool { return s.VM == strings.TrimSpace(vm) }) {
			return nil, Usage("%s is named twice", vm)
		}
		spec, err := f.spec(vm)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// spec makes the job of the flags.
func (f *runFlags) spec(vm string) (job.Spec, error) {
	spec := job.Spec{VM: vm, Mode: job.Mode(f.mode), Options: job.Options{
		Verify: job.VerifyMode(f.verify), Quiesce: f.quiesce, Cutover: job.Cutover(f.cutover),
		Adopt: f.adopt, Strict: f.strict,
	}}
	for _, t := range f.targets {
		disk, uri, ok := strings.Cut(t, "=")
		if !ok {
			return spec, Usage("--target wants DISK=URI, as in disk-2000=/srv/web.raw, not %q", t)
		}
		spec.Targets = append(spec.Targets, job.Target{Disk: job.DiskID(disk), URI: uri})
	}
	spec.Options.Disks = f.disks
	if f.bandwidth != "" {
		n, err := job.ParseRate(f.bandwidth)
		if err != nil {
			return spec, err
		}
		spec.Options.Bandwidth = n
	}
	if err := f.patience.into(&spec.Options); err != nil {
		return spec, err
	}
	if f.id != "" {
		if _, err := job.ParseID(f.id); err != nil {
			return spec, err
		}
	}
	return spec.Normal()
}
