package actors

import (
	"cmp"
	"crypto/rand"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/messages"
)

// Which jobs are queued and which run is not counted along: each decision looks at what the jobs have said last of
// their durable states. So nothing that comes late, twice or in another order can lose a queued job or free a slot.

// phaseSince is when the current phase of a job began.
func phaseSince(st job.State) time.Time {
	if n := len(st.Phases); n > 0 {
		return st.Phases[n-1].StartedAt
	}
	return st.CreatedAt
}

// phaseChanged is what a job says of its state.
func phaseChanged(st job.State) messages.PhaseChanged {
	return messages.PhaseChanged{
		ID: st.ID, Created: st.CreatedAt, Seq: st.Seq, Phase: st.Phase, Since: phaseSince(st),
		Snapshot: st.HeldSnapshot.SnapshotRef(),
	}
}

// phaseChanged takes the phase and the snapshot of a job.
func (j *jobs) phaseChanged(c actor.Context, m messages.PhaseChanged) {
	if k := j.known[m.ID]; k != nil && j.take(k, m) {
		j.admit(c)
	}
}

// take takes what a job says of its state. It says whether the phase is another one.
func (j *jobs) take(k *member, m messages.PhaseChanged) (changed bool) {
	if m.Seq < k.seq || !m.Created.Equal(k.created) {
		return false // of an actor that has ended since
	}
	changed = k.phase != m.Phase || !k.since.Equal(m.Since)
	if changed {
		k.admitted = false
		j.arrived++
		k.arrived = j.arrived
	}
	k.seq, k.phase, k.since, k.snapshot = m.Seq, m.Phase, m.Since, m.Snapshot
	return changed
}

// runs says whether a job takes one of the places of the node. A job that waits for its cut-over takes none, nor does
// one whose actor panicked too often.
func (k *member) runs() bool {
	switch {
	case k.crash.down:
		return false
	case k.phase == job.Queued:
		return k.admitted
	default:
		return k.phase != job.Waiting && !k.phase.Terminal()
	}
}

// admit starts queued jobs, those that were queued first, while fewer jobs run than the limit.
func (j *jobs) admit(c actor.Context) {
	busy := 0
	var queued []*member
	for _, k := range j.known {
		switch {
		case k.runs():
			busy++
		case k.phase == job.Queued && k.pid != nil:
			queued = append(queued, k)
		}
	}
	slices.SortFunc(queued, func(x, y *member) int {
		return cmp.Or(x.since.Compare(y.since), cmp.Compare(x.arrived, y.arrived))
	})
	for _, k := range queued[:min(len(queued), max(0, j.maxRunning-busy))] {
		k.admitted = true
		c.Send(k.pid, messages.Admit{Since: k.since, Mark: rand.Text()})
	}
}
