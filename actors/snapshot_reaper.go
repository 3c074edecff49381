package actors

import (
	"context"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// snapshotReaper removes snapshots of this node that no job has or may have. It never touches snapshots of other nodes
// and of other tools, nor those that name no node. It is a goroutine, not an actor.
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
		_ = guard(ctx, func(ctx context.Context) any { r.reap(ctx); return nil }, func(err error) any {
			r.log.Error("looking for orphaned snapshots panicked; it is tried again", "err", err)
			return nil
		})
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
	// The jobs are asked after the snapshots were listed: a job's mark is stored before it takes its snapshot, so each
	// listed snapshot that a job needs is known by then.
	needed, err := ask[messages.Snapshots](ctx, r.system, r.jobs, messages.AskSnapshots{})
	if err != nil {
		return
	}
	for _, s := range found {
		if !r.orphan(s, needed.Held) {
			continue
		}
		log := r.log.With("vm", s.VM.Name, "snapshot", s.Name, "ref", s.Ref)
		log.Warn("removing a snapshot that no job needs")
		if err := r.vcenter.RemoveSnapshot(ctx, s.VM, s.SnapshotRef); err != nil && ctx.Err() == nil {
			log.Warn("an orphaned snapshot could not be removed; it is tried again", "err", err)
		}
	}
}

// orphan says whether this node took the snapshot and no job holds it. The description of a snapshot says who took it;
// its name only protects it.
func (r snapshotReaper) orphan(s job.FoundSnapshot, held []job.SnapshotRef) bool {
	if s.Owner == "" || s.Owner != r.owner {
		return false
	}
	if s.Activation {
		return !s.TakenAt.IsZero() && r.now().Sub(s.TakenAt) > activationAge
	}
	return !slices.ContainsFunc(held, func(h job.SnapshotRef) bool {
		return h.Ref != "" && h.Ref == s.Ref || h.Mark != "" && h.Mark == s.Mark || h.Name != "" && h.Name == s.Name
	})
}
