package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// WaitedFor is what a phase waited for: a peer, by its own word, or one of the words below. Stored reports hold them.
type WaitedFor string

// What a phase can wait for.
const (
	ForVCenter  = WaitedFor(job.PeerVCenter)
	ForHost     = WaitedFor(job.PeerHost)
	ForSource   = WaitedFor(job.PeerSource)
	ForTarget   = WaitedFor(job.PeerTarget)
	ForJournal  = WaitedFor(job.PeerJournal)
	ForTurn     = WaitedFor("turn")     // the node runs as many jobs as it may
	ForPermit   = WaitedFor("permit")   // a limit of disks or connections, of a host, the node or the job
	ForLimit    = WaitedFor("limit")    // a limit of bandwidth
	ForRetry    = WaitedFor("retry")    // the pause between a failure and the next try
	ForResume   = WaitedFor("resume")   // it is paused
	ForOperator = WaitedFor("operator") // in step: for sync or cut-over
	ForDaemon   = WaitedFor("daemon")   // no daemon ran
)

// WaitedForWords are all that a phase can wait for.
func WaitedForWords() []WaitedFor {
	return []WaitedFor{
		ForTurn, ForPermit, ForLimit, ForVCenter, ForHost, ForSource, ForTarget, ForJournal, ForRetry, ForResume,
		ForOperator, ForDaemon,
	}
}

// Name is what a person calls it.
func (w WaitedFor) Name() string {
	switch w {
	case ForTurn:
		return "its turn"
	case ForPermit:
		return "a permit"
	case ForLimit:
		return "a bandwidth limit"
	case ForRetry:
		return "the next try"
	case ForResume:
		return "resume"
	case ForOperator:
		return "sync or cutover"
	case ForDaemon:
		return "the daemon"
	default:
		return job.Peer(w).Name()
	}
}

// PhaseWait is for how long a phase waited for one thing.
type PhaseWait struct {
	For     WaitedFor `json:"for"`
	Seconds float64   `json:"seconds"`
}

// WaitedText says in words for how long the phase waited, and for what; "" if it did not.
func (p Phase) WaitedText() string {
	if len(p.Waits) == 0 {
		return ""
	}
	parts := make([]string, len(p.Waits))
	for i, w := range p.Waits {
		parts[i] = fmt.Sprintf("%.1fs for %s", w.Seconds, w.For.Name())
	}
	return "waited " + strings.Join(parts, ", ")
}

const (
	leastWait = 100 * time.Millisecond // a shorter one is left out
	// The longest time for which a measured share holds. Reports come once a second while a job is followed.
	shareHolds = 5 * time.Second
)

// stay is one stay of a job in a phase.
type stay struct {
	phase job.Phase
	began int64 // ns since 1970
}

// phaseWaits counts what the phases of a job waited for. From one report to the next the work waits for what the first
// of them found.
type phaseWaits struct {
	of    map[stay]map[WaitedFor]time.Duration
	at    time.Time // of the last report; zero before the first
	in    stay      // the phase then
	parts map[WaitedFor]float64
}

// restore takes what the last report before a restart says. No daemon ran since then, as far as that can be told: the
// reports of a phase that copies come all the time, those of another phase may be old.
func (w *phaseWaits) restore(st job.State, last *Report) {
	for _, p := range last.Phases {
		for _, one := range p.Waits {
			w.add(stay{p.Name, p.StartedAt.UnixNano()}, one.For, time.Duration(one.Seconds*float64(time.Second)))
		}
	}
	now, ok := currentStay(st)
	if !ok || last.Phase != st.Phase {
		return
	}
	w.at, w.in, w.parts = last.ObservedAt, now, stateParts(st)
	if w.parts == nil && (st.Phase == job.Transfer || st.Phase == job.Verify) {
		w.parts = all(ForDaemon)
	}
}

func currentStay(st job.State) (stay, bool) {
	if len(st.Phases) == 0 {
		return stay{}, false
	}
	p := st.Phases[len(st.Phases)-1]
	return stay{p.Phase, p.StartedAt.UnixNano()}, true
}

func all(w WaitedFor) map[WaitedFor]float64 { return map[WaitedFor]float64{w: 1} }

// stateParts is what the whole job waits for, by its state alone; nil if it works.
func stateParts(s job.State) map[WaitedFor]float64 {
	switch {
	case s.Paused:
		return all(ForResume)
	case s.Phase == job.Queued:
		return all(ForTurn)
	case s.Phase == job.Waiting:
		return all(ForOperator)
	}
	return nil
}

func (w *phaseWaits) add(in stay, what WaitedFor, d time.Duration) {
	if w.of == nil {
		w.of = map[stay]map[WaitedFor]time.Duration{}
	}
	if w.of[in] == nil {
		w.of[in] = map[WaitedFor]time.Duration{}
	}
	w.of[in][what] += d
}

// countWaits counts the time since the last report, and finds what the work waits for from now on.
func (b *Builder) countWaits(now time.Time) {
	w := &b.waited
	if !w.at.IsZero() && len(w.parts) > 0 {
		until := now
		for _, p := range b.state.Phases {
			if (stay{p.Phase, p.StartedAt.UnixNano()}) == w.in && !p.EndedAt.IsZero() && p.EndedAt.Before(now) {
				until = p.EndedAt
			}
		}
		for what, share := range w.parts {
			d := until.Sub(w.at)
			if what == ForLimit {
				d = min(d, shareHolds)
			}
			if d = time.Duration(share * float64(d)); d > 0 {
				w.add(w.in, what, d)
			}
		}
	}
	w.at, w.parts = now, nil
	in, ok := currentStay(b.state)
	if !ok || b.state.Phase.Terminal() {
		return
	}
	w.in, w.parts = in, b.waitParts()
}

// waitParts is what the work waits for, as shares of it: of a job in transfer or verify they are means over the disks
// that have something left to do.
func (b *Builder) waitParts() map[WaitedFor]float64 {
	s := b.state
	if whole := stateParts(s); whole != nil {
		return whole
	}
	silence, silent := b.silent[""]
	switch {
	case b.crash != nil:
		return all(ForRetry)
	case s.Step.Wait.Waits():
		return all(WaitedFor(s.Step.Wait.For))
	case silent:
		return all(WaitedFor(silence.Of))
	case !s.Step.Until.IsZero():
		return all(ForRetry)
	case s.Phase != job.Transfer && s.Phase != job.Verify:
		return nil
	}
	parts, n := map[WaitedFor]float64{}, 0.0
	for _, ds := range s.Disks {
		if ds.Phase != job.DiskBackoff && !b.busy(ds) {
			continue
		}
		n++
		if what, share := b.diskWaits(ds); share > 0 {
			parts[what] += share
		}
	}
	for what := range parts {
		parts[what] /= n
	}
	return parts
}

// diskWaits is what a disk waits for, and for which part of the time.
func (b *Builder) diskWaits(ds job.DiskState) (what WaitedFor, share float64) {
	silence, silent := b.silent[ds.Disk.ID]
	d := b.disks[ds.Disk.ID]
	switch {
	case b.waits(ds):
		return WaitedFor(ds.Wait.For), 1
	case silent && !moves(d, ds):
		return WaitedFor(silence.Of), 1
	case ds.Phase == job.DiskBackoff:
		return ForRetry, 1
	case !b.works(ds):
		return "", 0
	case d.waitsFor != "":
		return ForPermit, 1
	default:
		return ForLimit, d.speed.load(flagWindow).Throttle
	}
}

// list is what a stay waited for, the longest wait first, and the sum of it. No sum is longer than the stay.
func (w *phaseWaits) list(in stay, took time.Duration) (waits []PhaseWait, sum float64) {
	took = max(took, 0) // the clock may have gone back
	of := w.of[in]
	for _, what := range slices.Sorted(maps.Keys(of)) {
		if d := min(of[what], took); d >= leastWait {
			seconds := d.Round(time.Millisecond).Seconds()
			waits = append(waits, PhaseWait{what, seconds})
			sum += seconds
		}
	}
	slices.SortStableFunc(waits, func(a, b PhaseWait) int { return cmp.Compare(b.Seconds, a.Seconds) })
	return waits, min(sum, took.Round(time.Millisecond).Seconds())
}
