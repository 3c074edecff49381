package report

import (
	"fmt"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
)

// Silence says that a call has had no answer for SilentAfter or longer, and is still under way.
type Silence struct {
	Job  job.ID
	Disk job.DiskID // of whose attempt the call is; "" for a step of the job itself
	Of   job.Peer
	// when the peer was heard last, or the call began; zero says that the silence is over
	Since   time.Time
	Message string // what was tried last, and what came; "" for nothing more than the silence
}

// Hear takes a silence, or its end.
func (b *Builder) Hear(s Silence) {
	if s.Since.IsZero() {
		delete(b.silent, s.Disk)
		return
	}
	b.silent[s.Disk] = s
}

// heardOf drops the silences that a new state ends: their step or attempt is over.
func (b *Builder) heardOf(before, now job.State) {
	if s, ok := b.silent[""]; ok && (before.Phase != now.Phase || before.Step != now.Step || s.Of == job.PeerJournal) {
		delete(b.silent, "")
	}
	for _, d := range now.Disks {
		if was, ok := before.DiskState(d.Disk.ID); !ok || was.Attempt != d.Attempt || was.Phase != d.Phase {
			delete(b.silent, d.Disk.ID)
		}
	}
}

// addWaits sets what the job and its disks wait for. A paused job waits for its operator instead.
func (b *Builder) addWaits(r *Report, now time.Time) {
	s := b.state
	if s.Phase.Terminal() || s.Paused {
		return
	}
	if w := s.Step.Wait; w.Waits() {
		r.Wait = b.wait(w, w.Message)
	} else if silence, ok := b.silent[""]; ok {
		r.Wait = b.silence(silence, now)
	}
	for i, ds := range s.Disks {
		d := &r.Disks[i]
		switch silence, silent := b.silent[ds.Disk.ID]; {
		case b.waits(ds):
			message := ""
			if ds.LastCause != nil {
				message = ds.LastCause.Message
			}
			d.Wait = b.wait(ds.Wait, message)
		case silent && !moves(b.disks[ds.Disk.ID], ds):
			d.Wait = b.silence(silence, now)
			if d.SilentSince == nil {
				d.SilentSince = stamp(silence.Since)
			}
		default:
			continue
		}
		if d.WaitingFor == "" {
			d.WaitingFor = d.Wait.For
		}
		if r.Wait == nil || d.Wait.Since.Before(r.Wait.Since) {
			r.Wait = d.Wait
		}
	}
	if r.Wait != nil {
		r.WaitingFor = r.Wait.For
	}
}

// waits says whether a disk waits for a peer: until the attempt that runs gets an answer to a request for bytes.
func (b *Builder) waits(ds job.DiskState) bool {
	switch ds.Phase {
	case job.DiskBackoff:
		return ds.Wait.Waits()
	case job.DiskRunning, job.DiskVerifying:
		return ds.Wait.Waits() && !moves(b.disks[ds.Disk.ID], ds)
	default:
		return false
	}
}

// moves says whether the newest attempt has had answers to requests for bytes.
func moves(d *diskBuilder, ds job.DiskState) bool {
	if d == nil || d.attempt != ds.Attempt {
		return false
	}
	c := d.live
	return ds.Phase == job.DiskRunning && (c.Requests > 0 || c.Done() > c.ResumedTransferred+c.ResumedSkipped) ||
		ds.Phase == job.DiskVerifying && c.Verified > 0
}

func (b *Builder) wait(w job.Wait, message string) *Wait {
	patience, key := b.state.Patience()
	out := &Wait{For: string(w.For), Since: w.Since, Key: key, Message: message}
	if !b.state.Unending() {
		out.Until = stamp(w.Until(patience))
	}
	return out
}

// silence is the wait for the answer to a call. If it becomes a failure, the wait goes on from the same time.
func (b *Builder) silence(s Silence, now time.Time) *Wait {
	w := b.wait(job.Wait{For: s.Of, Since: s.Since}, s.Message)
	if s.Of == job.PeerJournal {
		w.Until, w.Key = nil, ""
	}
	if w.Message == "" {
		w.Message = fmt.Sprintf("%s has not answered for %s", s.Of.Name(), short(now.Sub(s.Since)))
	}
	return w
}

// silentStep says whether a step waits for the answer to a call.
func (b *Builder) silentStep() bool {
	s, ok := b.silent[""]
	return ok && s.Of != job.PeerJournal && !b.state.Phase.Terminal()
}

// short is a duration in words: 8 s, 41 min, 4 h, 1 h 5 min.
func short(d time.Duration) string {
	d = max(0, d)
	h, m, s := d/time.Hour, d%time.Hour/time.Minute, d%time.Minute/time.Second
	switch {
	case h > 0 && m > 0:
		return fmt.Sprintf("%d h %d min", h, m)
	case h > 0:
		return fmt.Sprintf("%d h", h)
	case m > 0:
		return fmt.Sprintf("%d min", m)
	default:
		return fmt.Sprintf("%d s", s)
	}
}

// clock is a time of the last day as 12:03 UTC, and an earlier one with its date.
func clock(t, now time.Time) string {
	if now.Sub(t) > 20*time.Hour {
		return t.UTC().Format("2006-01-02 15:04 UTC")
	}
	return t.UTC().Format("15:04 UTC")
}

// waitText says what is waited for and since when: "waits for the vCenter since 12:03 UTC (41 min of 4 h): ...".
func (b *Builder) waitText(w Wait, now time.Time) string {
	waited := short(now.Sub(w.Since))
	if w.Until != nil {
		patience, _ := b.state.Patience()
		waited = short(patience-max(0, w.Until.Sub(now))) + " of " + short(patience)
	}
	return fmt.Sprintf("waits for %s since %s (%s): %s", job.Peer(w.For).Name(), clock(w.Since, now), waited, w.Message)
}

// waitOperation says what the job waits for, and how old the snapshot is meanwhile; "" if it does not wait. While other
// disks go on, it says which disks wait after what the job does.
func (b *Builder) waitOperation(r Report, does string) string {
	if r.Wait == nil {
		return ""
	}
	text := b.waitText(*r.Wait, r.ObservedAt)
	if b.state.Phase == job.Transfer || b.state.Phase == job.Verify {
		var names []string
		busy := 0
		for _, d := range r.Disks {
			switch {
			case d.Wait != nil:
				names = append(names, string(d.DiskID))
			case d.Status == job.DiskRunning || d.Status == job.DiskVerifying || d.Status == job.DiskBackoff:
				busy++
			}
		}
		if busy > 0 && len(names) > 0 {
			verb := ", the first of them "
			if len(names) == 1 {
				verb = " "
			}
			text = does + "; " + strings.Join(names, ", ") + verb + text
		}
	}
	if b.state.HeldSnapshot.Ref != "" {
		text += "; " + keptSnapshot(b.state.HeldSnapshot, r.ObservedAt)
	}
	return text
}
