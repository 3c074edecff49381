package transfer

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Keep lets the copy of a round begin with what an earlier round of the job made durable of the disk: with all that has
// not changed since that round's snapshot. task is that of the first attempt, areas and known are what Areas says of
// it. When Keep returns, what the copy begins with is durable, and nothing else has been changed; it is called before
// the first attempt, and may be called again with the same arguments.
//
// kept is nil if nothing can be kept; why says why not, and is "" if nothing is lost by that. Errors are those of the
// vCenter and of the folder of checkpoints.
func (t *Transfers) Keep(ctx context.Context, task job.TransferTask, from job.KeptCopy, areas job.Extents, known bool) (
	kept *job.KeptPart, why string, err error,
) {
	now := attempt{Transfers: t, task: task, areas: areas, known: known}
	then := attempt{Transfers: t, task: from.Identified(task)}
	changed, err := t.Source.ChangedAreas(ctx, task.VM, task.Snapshot, task.Disk.Disk.ID, from.ChangeID)
	if k := job.KindOf(err); k == job.CBTInvalid || k == job.Unsupported {
		return nil, "the change ID of the round that was not committed is no longer good",
			nbd.RemoveCheckpoint(now.checkpoint())
	}
	if err != nil {
		return nil, "", err
	}
	next := nbd.Task{
		Checkpoint: now.checkpoint(), Identity: now.identity(), Capacity: task.Disk.Disk.Capacity,
	}
	now.restrict(&next)
	part, err := nbd.Inherit(next, then.checkpoint(), then.identity(), changed)
	switch job.KindOf(err) {
	case "":
	case job.NotFound:
		return nil, lost(from, "what was recorded of it is gone"), nil
	case job.Corrupt, job.Conflict, job.Invalid:
		return nil, lost(from, fmt.Sprintf("what was recorded of it can't be used: %v", err)), nil
	default:
		return nil, "", job.Errorf("go on from an earlier round", job.KindOf(err), fmt.Sprintf(
			"See to the folder of the daemon's state; vmferry retry %s --fresh does without what it holds", task.Job),
			"%w", err)
	}
	if part == (nbd.Inherited{}) {
		return nil, lost(from, "all that was kept of it has changed since"), nil
	}
	return &job.KeptPart{Round: from.Round, Transferred: part.Transferred, Skipped: part.Skipped}, "", nil
}

// lost is the reason why nothing is kept, if anything is lost by that.
func lost(from job.KeptCopy, why string) string {
	if from.Durable == 0 {
		return ""
	}
	return why
}

// dropEarlier removes what earlier rounds recorded of the disk: once an attempt of this round begins, no state names it
// any more.
func (a attempt) dropEarlier() {
	files, err := os.ReadDir(a.jobDir(a.task.Job))
	for _, f := range files {
		name := strings.TrimPrefix(f.Name(), string(a.task.Disk.Disk.ID)+"-")
		round, what, _ := strings.Cut(name, ".")
		if name == f.Name() || !strings.HasPrefix(what, "checkpoint") || round == fmt.Sprint(a.task.Round) {
			continue
		}
		if rerr := os.Remove(filepath.Join(a.jobDir(a.task.Job), f.Name())); err == nil {
			err = rerr
		}
	}
	if err != nil {
		a.log().Warn("what an earlier round recorded could not be removed", "err", err)
	}
}
