package actors

import (
	"context"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// snapshotReaper removes snapshots that no job needs: those of a job of this node that needs another snapshot or none,
// and those that this node took for a job that was deleted. It never touches snapshots of other nodes and of other
// tools. It is a goroutine, not an actor.
type snapshotReaper struct {
	*deps
	system *actor.ActorSystem
	jobs   *actor.PID
}

const (
	reapFirst   = 5 * time.Second // after the start, so that the unfinished jobs are loaded before
	reapEvery   = time.Minute
	reapTimeout = 15 * time.Minute // of one pass; a removal can take long
	// activationAge is the age at which a snapshot that was taken to activate change tracking is orphaned: normally it
	// exists for seconds.
	activationAge = 10 * time.Minute
)

// run makes a pass every minute until ctx ends. A node without an owner's name makes none.
func (r snapshotReaper) run(ctx context.Context) {
	if r.owner == "" {
		return
	}
	for wait := reapFirst; ; wait = reapEvery {
		pause(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		r.reap(ctx)
	}
}

// reap removes the snapshots that are orphaned now. The next pass tries again those that could not be removed.
func (r snapshotReaper) reap(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	found, err := r.vcenter.OurSnapshots(ctx)
	if err != nil {
		r.log.Debug("could not look for orphaned snapshots", "err", err)
		return
	}
	if len(found) == 0 {
		return
	}
	// The jobs are asked after the snapshots were listed: a job names its snapshot before it takes it, so each listed
	// snapshot that a job needs is named by then.
	needed, err := ask[messages.Snapshots](ctx, r.system, r.jobs, messages.AskSnapshots{})
	if err != nil {
		return
	}
	for _, s := range found {
		if !r.orphan(s, needed) {
			continue
		}
		log := r.log.With("vm", s.VM.Name, "snapshot", s.Name, "ref", s.Ref)
		log.Warn("removing a snapshot that no job needs")
		if err := r.vcenter.RemoveSnapshot(ctx, s.VM, s.Ref, ""); err != nil && ctx.Err() == nil {
			log.Warn("an orphaned snapshot could not be removed; it is tried again", "err", err)
		}
	}
}

// orphan says whether no job needs a snapshot and this node may remove it. Names are vmferry/<job>/<round>; a snapshot
// with another name was taken to activate change tracking.
func (r snapshotReaper) orphan(s job.FoundSnapshot, needed messages.Snapshots) bool {
	parts := strings.Split(s.Name, "/")
	if len(parts) != 3 || parts[0] != "vmferry" {
		return s.Owner == r.owner && !s.TakenAt.IsZero() && r.now().Sub(s.TakenAt) > activationAge
	}
	if needed.Names[s.Name] {
		return false
	}
	return s.Owner == r.owner || needed.Jobs[job.ID(parts[1])]
}
