package actors

import (
	"context"
	"strings"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// tidier removes snapshots that no job needs: those of jobs that this node knows and that hold another one or none, and
// those that this node took for jobs which it has forgotten. Those of other nodes and of other tools it never touches.
type tidier struct {
	*deps
	system *actor.ActorSystem
	jobs   *actor.PID
}

const (
	tidyFirst = 5 * time.Second // after the start: jobs that were found have their say before
	tidyEvery = time.Minute
	tidyTime  = 15 * time.Minute // for one look; a removal can take long
	// activationAge is how old a snapshot must be that was taken to begin change tracking: it lives for seconds.
	activationAge = 10 * time.Minute
)

func (t tidier) run(ctx context.Context) {
	if t.owner == "" {
		return
	}
	for wait := tidyFirst; ; wait = tidyEvery {
		pause(ctx, wait)
		if ctx.Err() != nil {
			return
		}
		t.look(ctx)
	}
}

// look removes what is orphaned now. What can't be removed is tried again the next time.
func (t tidier) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tidyTime)
	defer cancel()
	found, err := t.vcenter.OurSnapshots(ctx)
	if err != nil {
		t.log.Debug("could not look for orphaned snapshots", "err", err)
		return
	}
	if len(found) == 0 {
		return
	}
	// Asked after the look: a snapshot that was there is held by then, or nobody holds it any more.
	needed, err := ask[messages.Snapshots](ctx, t.system, t.jobs, messages.Needed{})
	if err != nil {
		return
	}
	for _, s := range found {
		if !t.orphan(s, needed) {
			continue
		}
		log := t.log.With("vm", s.VM.Name, "snapshot", s.Name, "ref", s.Ref)
		log.Warn("removes a snapshot of ours that no job needs")
		if err := t.vcenter.RemoveSnapshot(ctx, s.VM, s.Ref, ""); err != nil && ctx.Err() == nil {
			log.Warn("an orphaned snapshot could not be removed; it is tried again", "err", err)
		}
	}
}

func (t tidier) orphan(s job.FoundSnapshot, needed messages.Snapshots) bool {
	parts := strings.Split(s.Name, "/")
	if len(parts) != 3 || parts[0] != "vmferry" {
		return s.Owner == t.owner && !s.TakenAt.IsZero() && t.now().Sub(s.TakenAt) > activationAge
	}
	if needed.Names[s.Name] {
		return false
	}
	return s.Owner == t.owner || needed.Jobs[job.ID(parts[1])]
}
