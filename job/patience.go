package job

import (
	"cmp"
	"fmt"
	"strings"
	"time"
)

// How long a job waits for a peer that is unavailable, where neither its options nor the configuration say it.
const (
	StandardPatience          = 4 * time.Hour
	StandardLastRoundPatience = 10 * time.Minute
)

// The keys that set the patience, as they are named to operators.
const (
	PatienceKey          = "options.patience (limits.patience)"
	LastRoundPatienceKey = "options.last_round_patience (limits.last_round_patience)"
)

const (
	leastPatience = time.Second
	mostPatience  = 30 * 24 * time.Hour
)

// CheckPatience refuses a patience that makes no sense. name is that of the option or key. The error is of kind
// Invalid.
func CheckPatience(name string, d time.Duration) error {
	if d < leastPatience || d > mostPatience {
		return Errorf("check patience", Invalid, "Use a time from 1s to 720h, such as 4h", "%s is %v", name, d)
	}
	return nil
}

// ParsePatience reads a time such as 4h, 90m or 1h30m. The error is of kind Invalid.
func ParsePatience(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, Errorf("read patience", Invalid, "Use a time with its unit, such as 4h or 10m", "%q is not a time",
			clip(text, 40))
	}
	return d, nil
}

// checkPatience is CheckPatience for options of a job, where 0 means as the node's key says.
func (o Options) checkPatience() error {
	for _, p := range []struct {
		name string
		time.Duration
	}{{"options.patience", o.Patience}, {"options.last_round_patience", o.LastRoundPatience}} {
		if p.Duration == 0 {
			continue
		}
		if err := CheckPatience(p.name, p.Duration); err != nil {
			return err
		}
	}
	return nil
}

// Wait is the wait for a peer that is unavailable. The zero value is none. Progress ends it, or a failure of another
// sort.
type Wait struct {
	For   Peer      `json:"for"`   // of the newest failure
	Since time.Time `json:"since"` // the first failure in a row without progress
	Tries int       `json:"tries"` // failures in a row; the pauses between the tries grow with it
	// what came last; "" for a disk, which has LastCause
	Message string `json:"message,omitempty"`
	// time since Since that does not count: the job was paused, or no daemon ran
	Paused   time.Duration `json:"paused,omitempty"`
	PausedAt time.Time     `json:"paused_at,omitzero"` // while the job is paused
	Last     bool          `json:"last,omitempty"`     // the try that follows is the last one
}

// Waits says whether there is a wait.
func (w Wait) Waits() bool { return !w.Since.IsZero() }

// Waited is the time that counts.
func (w Wait) Waited(now time.Time) time.Duration {
	if !w.PausedAt.IsZero() && w.PausedAt.Before(now) {
		now = w.PausedAt
	}
	return max(0, now.Sub(w.Since)-w.Paused)
}

// Until is when a patience ends.
func (w Wait) Until(patience time.Duration) time.Time { return w.Since.Add(w.Paused + patience) }

// failed takes one more failure. since is when the peer was heard last, if that was before now; zero if it is not
// known.
func (w Wait) failed(what Peer, since, now time.Time) Wait {
	if !w.Waits() {
		w.Since = now
		if !since.IsZero() && since.Before(now) {
			w.Since = since
		}
	}
	w.For = what
	w.Tries++
	return w
}

// pause stops the clock of a wait.
func (w *Wait) pause(now time.Time) {
	if w.Waits() && w.PausedAt.IsZero() {
		w.PausedAt = now
	}
}

// resume lets the clock of a wait go on.
func (w *Wait) resume(now time.Time) {
	if !w.PausedAt.IsZero() {
		w.leaveOut(now.Sub(w.PausedAt))
		w.PausedAt = time.Time{}
	}
}

// leaveOut does not count a time.
func (w *Wait) leaveOut(d time.Duration) {
	if w.Waits() {
		w.Paused += max(0, d)
	}
}

// isWaitedFor says whether a failure is one that a job waits out: a peer is unavailable, or did not answer in time. A
// server that answers with a failure of its own names no peer, nor do the events of versions without patience: a budget
// bounds those.
func isWaitedFor(kind Kind, what Peer) bool {
	return what != "" && (kind == Unavailable || kind == Timeout)
}

// waitPolicy has the pauses between two tries of a wait: so short that a job goes on soon after the return of its peer.
func waitPolicy() Policy {
	return Policy{First: 500 * time.Millisecond, Most: 30 * time.Second, AtOnce: true}
}

// stepWaitPolicy is waitPolicy for a step of the job itself.
func stepWaitPolicy() Policy { return Policy{First: time.Second, Most: 30 * time.Second} }

// LastRound says whether this round is the last one and follows a committed one. The VM is shut down for such a round,
// or will be soon, so its patience is another one. A job whose first round is its last has the usual patience: nothing
// was shut down for it.
func (s State) LastRound() bool {
	if !s.Final {
		return false
	}
	for _, r := range s.Rounds[:max(0, len(s.Rounds)-1)] {
		if !r.EndedAt.IsZero() {
			return true
		}
	}
	return false
}

// Patience is how long the job waits for a peer now, and the key that says so.
func (s State) Patience() (patience time.Duration, key string) {
	if s.LastRound() {
		return cmp.Or(s.Spec.Options.LastRoundPatience, StandardLastRoundPatience), LastRoundPatienceKey
	}
	return cmp.Or(s.Spec.Options.Patience, StandardPatience), PatienceKey
}

// Unending says whether the step that runs now is tried without end: the removal of a snapshot.
func (s State) Unending() bool { return s.Phase == Cleanup || s.Phase == Commit && s.Committed() }

// next is when the next try of a wait is; false if there is none any more. The last try is at the end of the patience,
// or, if a try before it takes until then without an answer, at once after that one.
func (m *machine) next(w *Wait, p Policy, seed string) (time.Time, bool) {
	patience, _ := m.Patience()
	if w.Waited(m.now) >= patience {
		was := w.Last
		w.Last = true
		return m.now, !was
	}
	at, end := m.now.Add(p.Pause(w.Tries, seed)), w.Until(patience)
	w.Last = w.PausedAt.IsZero() && !at.Before(end)
	if w.Last {
		at = end
	}
	return at, true
}

// outOfPatience makes a failure say what was waited for, since when, and which key says how long.
func (m *machine) outOfPatience(f *Failure, w Wait) {
	patience, key := m.Patience()
	f.Message = fmt.Sprintf("waited for %s since %s, which is as long as %s says (%s): %s", w.For.Name(),
		w.Since.UTC().Format("2006-01-02 15:04:05 UTC"), key, FormatPatience(patience), f.Message)
	next := fmt.Sprintf("See that %s answers, then vmferry retry %s goes on; raise %s to wait for longer", w.For.Name(),
		m.ID, key)
	if f.Next != "" {
		next = f.Next + ". " + next
	}
	f.Next = next
}

// FormatPatience writes a time in words that are short: 4h, 10m, 1h30m, 45s.
func FormatPatience(d time.Duration) string {
	d = d.Round(time.Second)
	h, m, s := d/time.Hour, d%time.Hour/time.Minute, d%time.Minute/time.Second
	var out strings.Builder
	for _, part := range []struct {
		n    time.Duration
		unit string
	}{{h, "h"}, {m, "m"}, {s, "s"}} {
		if part.n > 0 {
			fmt.Fprintf(&out, "%d%s", part.n, part.unit)
		}
	}
	return cmp.Or(out.String(), "0s")
}

// waitForDisk plans the next attempt at a disk whose peer is unavailable, or fails the disk.
func (m *machine) waitForDisk(d *DiskState, e AttemptFailed, progress int64) {
	if progress > 0 {
		tries := d.Wait.Tries
		if progress >= countedProgress {
			tries = 0
		}
		d.Wait = Wait{Tries: tries}
	}
	d.Wait = d.Wait.failed(e.What, e.Since, m.now)
	if m.Paused {
		d.Wait.pause(m.now)
	}
	at, ok := m.next(&d.Wait, waitPolicy(), string(m.ID)+string(d.Disk.ID))
	if !ok {
		m.outOfPatience(d.LastCause, d.Wait)
		d.Phase, d.Wait = DiskFailed, Wait{}
		return
	}
	m.backOff(d, at)
}

// notRunning does not count the time in which no daemon ran: from the next try that was planned, or the last failure.
func (m *machine) notRunning() {
	after := m.Step.Until
	if after.IsZero() && m.Failure != nil {
		after = m.Failure.At
	}
	if !after.IsZero() {
		m.Step.Wait.leaveOut(m.now.Sub(after))
	}
	for i := range m.Disks {
		d := &m.Disks[i]
		after := d.BackoffUntil
		if after.IsZero() && d.LastCause != nil {
			after = d.LastCause.At
		}
		if d.Wait.PausedAt.IsZero() && !after.IsZero() {
			d.Wait.leaveOut(m.now.Sub(after))
		}
	}
}
