package job

import (
	"slices"
	"time"
)

// State is all that is known of one job: the fold of its events. It is what the journal keeps. Facts only: percent,
// status and health are computed from it and from the counters of the running disks. Apply makes a new State from an
// old one; a State that was handed out is never changed.
type State struct {
	ID        ID         `json:"id"`
	Spec      Spec       `json:"spec"`
	Seq       int64      `json:"seq"` // number of events applied
	Phase     Phase      `json:"phase"`
	CreatedAt time.Time  `json:"created_at"`
	StartedAt time.Time  `json:"started_at"` // zero before it left queued
	EndedAt   time.Time  `json:"ended_at"`   // zero before it ended
	Phases    []PhaseRun `json:"phases"`

	VM     VM             `json:"vm"`     // valid from EnablingCBT on
	Base   *CheckpointSet `json:"base"`   // what the next round may start from; nil: full
	Rounds []Round        `json:"rounds"` // the last one is the current one
	// in this round, in the order of their keys; valid from EnablingCBT on
	Disks      []DiskState  `json:"disks"`
	Held       HeldSnapshot `json:"held"`     // the snapshot that we hold, or may hold
	Final      bool         `json:"final"`    // this round is the last one
	Paused     bool         `json:"paused"`   //
	Cancelling bool         `json:"stopping"` // cancel was asked for
	// the targets that the job made are removed when it is cancelled
	Purge    bool     `json:"purge,omitempty"`
	Fresh    bool     `json:"fresh,omitempty"` // what is on the targets does not count
	FullOnly []DiskID `json:"anew,omitempty"`  // the only disks that may go full; none for all
	// of a job that failed: the disks that were on their targets then
	Partial    *CheckpointSet `json:"partial,omitempty"`
	Unverified bool           `json:"unproven,omitempty"` // Base is such a set: nobody has read the targets back yet
	Made       []string       `json:"made,omitempty"`     // URIs of targets that were not there before the job
	Outcome    Phase          `json:"outcome"`            // how it will end, once that is certain; "" before
	Failure    *Failure       `json:"failure"`            // why it failed, is failing, or failed last
	Step       StepRetry      `json:"step"`               // retries of what the job itself does at the source
	Notes      []string       `json:"notes"`
}

// PhaseRun is one stay in a phase.
type PhaseRun struct {
	Phase     Phase     `json:"phase"`
	Round     int       `json:"round"`
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"` // zero while in it
}

// Round is one pass over all disks.
type Round struct {
	Number    int       `json:"number"` // from 1
	StartedAt time.Time `json:"started_at"`
	EndedAt   time.Time `json:"ended_at"` // zero until committed
	Mode      Mode      `json:"mode"`     // full if any disk goes full; auto before it is known
	Counters  Counters  `json:"counters"` // sums over the disks, once committed, or given up for another round
	Resent    int64     `json:"resent"`
}

// Held is a snapshot at the source: first the intent (Name), then the thing (Ref).
type HeldSnapshot struct {
	Name     string     `json:"name"` // "" if we hold none
	Ref      string     `json:"ref"`  // "" until the vCenter has told
	TakenAt  time.Time  `json:"taken_at"`
	Snapshot VMSnapshot `json:"snapshot"`
}

// Failure is an error that was classified at the place where it happened.
type Failure struct {
	Phase   Phase     `json:"phase"`
	Disk    DiskID    `json:"disk,omitempty"`
	Kind    Kind      `json:"kind"`
	Message string    `json:"message"`
	Next    string    `json:"next"`
	At      time.Time `json:"at"`
}

// StepRetry counts the retries of the step that runs now.
type StepRetry struct {
	Attempt int       `json:"attempt"` // failures in a row
	Until   time.Time `json:"until"`   // zero unless it waits for the next try
}

// DiskPhase is where one disk is within a round.
type DiskPhase string

// The phases of a disk.
const (
	DiskPending   DiskPhase = "pending"
	DiskRunning   DiskPhase = "running"
	DiskBackoff   DiskPhase = "backoff" // failed, will be restarted
	DiskPaused    DiskPhase = "paused"
	DiskCopied    DiskPhase = "copied" // every byte of the round is on the target, flushed
	DiskVerifying DiskPhase = "verifying"
	DiskDone      DiskPhase = "completed" // copied, and verified as the job's options ask
	DiskFailed    DiskPhase = "failed"
)

// DiskState is one disk in this round.
type DiskState struct {
	Disk           Disk      `json:"disk"` // as the snapshot froze it; before that as preflight saw it
	Target         string    `json:"target"`
	TargetIdentity string    `json:"target_identity"`
	Mode           Mode      `json:"mode"`
	ToTransfer     int64     `json:"to_transfer"` // bytes; valid from Transfer on
	Zero           bool      `json:"zero"`        // the target is known to be all zero where nothing was written
	Phase          DiskPhase `json:"phase"`
	Attempt        int       `json:"attempt"`  // of this round, from 1
	Restarts       int       `json:"restarts"` // over all rounds
	Streak         int       `json:"streak"`   // failures in a row without progress; what the budget counts
	BackoffUntil   time.Time `json:"backoff_until"`
	LastCause      *Failure  `json:"last_cause"`
	Counters       Counters  `json:"counters"` // of the last attempt that ended
	Sent           int64     `json:"sent"`     // bytes sent by all ended attempts of this round
	High           int64     `json:"high"`     // most bytes acknowledged in any attempt of this round
	HighSkipped    int64     `json:"high_skipped"`
}

// Planned says whether the first attempt at the disk in this round has begun: ToTransfer is valid.
func (d DiskState) Planned() bool {
	return d.Mode != Auto && d.Mode != "" && d.Phase != "" && d.Attempt > 0
}

// Copied says whether every byte of the round is on the target, flushed.
func (d DiskState) Copied() bool {
	return d.Phase == DiskCopied || d.Phase == DiskVerifying || d.Phase == DiskDone
}

// Resent is how many bytes were sent again after restarts.
func (d DiskState) Resent() int64 { return max(0, d.Sent-d.High) }

// Round is the number of the current round; 0 before the first.
func (s State) Round() int { return len(s.Rounds) }

// Status is the state in one word.
func (s State) Status() Status {
	if s.Paused && !s.Phase.Terminal() {
		return Paused
	}
	return phases[s.Phase].status
}

// Mode is that of the round that runs or ran last.
func (s State) Mode() Mode {
	if n := len(s.Rounds); n > 0 {
		return s.Rounds[n-1].Mode
	}
	return s.Spec.Mode
}

// DiskState finds a disk; false if the job moves none of that id.
func (s State) DiskState(id DiskID) (DiskState, bool) {
	i := s.disk(id)
	if i < 0 {
		return DiskState{}, false
	}
	return s.Disks[i], true
}

func (s State) disk(id DiskID) int {
	return slices.IndexFunc(s.Disks, func(d DiskState) bool { return d.Disk.ID == id })
}

// clone is a copy that shares nothing that Apply changes.
func (s State) clone() State {
	s.Phases = slices.Clone(s.Phases)
	s.Rounds = slices.Clone(s.Rounds)
	s.Disks = slices.Clone(s.Disks)
	s.Notes = slices.Clone(s.Notes)
	s.Made = slices.Clone(s.Made)
	return s
}
