package actors

import (
	"context"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// snapshotReaper removes snapshots that no job needs: those of jobs that this node knows and that hold another one or none, and
// those that this node took for jobs which it has forgotten. Those of other nodes and of other tools it never touches.
type snapshotReaper struct {
	*deps
	system *actor.ActorSystem
	jobs   *actor.PID
}

const (
	reapFirst = 5 * time.Second // after the start: jobs that were found have their say before
	reapEvery = time.Minute
	reapTime  = 15 * time.Minute // for one look; a removal can take long
	// activationAge is how old a snapshot must be that was taken to begin change tracking: it lives for seconds.
	activationAge = 10 * time.Minute
)

func (r snapshotReaper) run(ctx context.Context) {
	if r.owner == "" {
		return
	}
	for wait := reapFirst; ; wait = reapEvery {
		pause(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		r.look(ctx)
	}
}

// look removes what is orphaned now. What can't be removed is tried again the next time.
func (r snapshotReaper) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, reapTime)
	defer cancel()
	found, err := r.vcenter.OurSnapshots(ctx)
	if err != nil {
		r.log.Debug("could not look for orphaned snapshots", "err", err)
		return
	}
	if len(found) == 0 {
		return
	}
	// Asked after the look: a snapshot that was there is held by then, or nobody holds it any more.
	needed, err := ask[messages.Snapshots](ctx, r.system, r.jobs, messages.Needed{})
	if err != nil {
		return
	}
	for _, s := range found {
		if !r.orphan(s, needed) {
			continue
		}
		log := r.log.With("vm", s.VM.Name, "snapshot", s.Name, "ref", s.Ref)
		log.Warn("removes a snapshot of ours that no job needs")
		if err := r.vcenter.RemoveSnapshot(ctx, s.VM, s.Ref, ""); err != nil && ctx.Err() == nil {
			log.Warn("an orphaned snapshot could not be removed; it is tried again", "err", err)
		}
	}
}

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
