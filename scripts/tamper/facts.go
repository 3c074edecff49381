package main

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/vmferry/vmferry/http/rest"
	"github.com/vmferry/vmferry/job"
)

// span is a stretch of time.
type span struct{ begin, end time.Time }

// overlaps says whether the two have a moment in common. The ends count.
func (s span) overlaps(t span) bool { return !s.begin.After(t.end) && !t.begin.After(s.end) }

// round is what the events of a job say of one disk in one round. Times that did not come are zero.
type round struct {
	job       job.ID
	number    int
	verify    job.VerifyMode
	begin     time.Time // the snapshot is asked for
	mode      job.Mode
	total     int64       // bytes that the round moves
	moved     job.Extents // these bytes, if known
	known     bool
	attempts  []span    // in which bytes are copied
	copied    time.Time // all are on the target
	verified  int64     // bytes that were read back
	settled   time.Time // every disk of the job is copied and verified; what follows is the commit
	committed time.Time
	end       time.Time
}

// part returns the bytes of x that the round moves, and the others. A full round moves all: what is not allocated is
// made zero.
func (r round) part(x job.Extents) (moved, unmoved job.Extents) {
	if r.mode == job.Full {
		return x, nil
	}
	return x.Within(r.moved), x.Cut(r.moved)
}

// teller makes rounds of one disk of the events of its job.
type teller struct {
	disk   job.DiskID
	rounds []round
	open   bool // an attempt runs
	paused bool
}

// roundsOf returns the rounds of one disk, oldest first.
func roundsOf(id job.ID, verify job.VerifyMode, disk job.DiskID, entries []rest.JournalEntry) ([]round, error) {
	t := &teller{disk: disk}
	for _, e := range entries {
		if err := t.take(id, verify, e); err != nil {
			return nil, err
		}
	}
	return t.rounds, nil
}

func (t *teller) take(id job.ID, verify job.VerifyMode, e rest.JournalEntry) error {
	if n := len(t.rounds); n > 0 {
		t.rounds[n-1].end = e.At
	}
	next := func() {
		t.open, t.paused = false, false
		t.rounds = append(t.rounds, round{job: id, number: len(t.rounds) + 1, verify: verify, begin: e.At, end: e.At})
	}
	if e.Type == "cbt_ready" {
		next()
		return nil
	}
	if e.Type == "asked" {
		var c job.CommandReceived
		if err := json.Unmarshal(e.Data, &c); err != nil {
			return err
		}
		switch c.Verb {
		case job.Sync, job.CutoverNow:
			next()
		case job.Pause:
			t.paused = true
		case job.Resume:
			t.resume(e.At)
		default:
		}
		return nil
	}
	if len(t.rounds) == 0 {
		return nil
	}
	return t.diskEvent(e, &t.rounds[len(t.rounds)-1])
}

// resume begins the next attempt of a disk that was stopped. If its attempt has not ended yet, the next one begins when
// it has.
func (t *teller) resume(at time.Time) {
	was := t.paused
	t.paused = false
	if n := len(t.rounds); n > 0 && was && !t.open && t.rounds[n-1].copied.IsZero() &&
		len(t.rounds[n-1].attempts) > 0 {
		t.attempt(&t.rounds[n-1], at)
	}
}

func (t *teller) attempt(r *round, at time.Time) {
	t.open = true
	r.attempts = append(r.attempts, span{at, at})
}

func (t *teller) diskEvent(e rest.JournalEntry, r *round) error {
	var d struct {
		Disk     job.DiskID   `json:"disk"`
		Counters job.Counters `json:"counters"`
		Kind     job.Kind     `json:"kind"`
	}
	switch e.Type {
	case "planned":
		var p job.Planned
		if err := json.Unmarshal(e.Data, &p); err != nil {
			return err
		}
		if i := slices.IndexFunc(p.Disks, func(p job.DiskPlan) bool { return p.Disk.ID == t.disk }); i >= 0 {
			r.mode, r.total = p.Disks[i].Mode, p.Disks[i].ToTransfer
			t.attempt(r, e.At)
		}
		return nil
	case "set_committed":
		r.committed = e.At
		return nil
	case "disk_moved", "disk_verified", "disk_fell", "disk_due":
		if err := json.Unmarshal(e.Data, &d); err != nil {
			return err
		}
	default:
		return nil
	}
	if e.Type == "disk_moved" || e.Type == "disk_verified" {
		r.settled = e.At // the last one of all disks counts
	}
	if d.Disk != t.disk {
		return nil
	}
	t.ended(e, r, d.Kind, d.Counters)
	return nil
}

// ended takes the end of an attempt, or of the pause after it.
func (t *teller) ended(e rest.JournalEntry, r *round, why job.Kind, c job.Counters) {
	shut := func() {
		if n := len(r.attempts); n > 0 && t.open {
			r.attempts[n-1].end = e.At
		}
		t.open = false
	}
	switch e.Type {
	case "disk_moved":
		shut()
		r.copied = e.At
	case "disk_verified":
		r.verified = c.Verified
	case "disk_fell":
		if !r.copied.IsZero() {
			return // a verification
		}
		shut()
		if why == job.Cancelled && !t.paused {
			t.attempt(r, e.At) // resumed already
		}
	case "disk_due":
		if r.copied.IsZero() && !t.open {
			t.attempt(r, e.At)
		}
	}
}
