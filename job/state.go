package job

import (
	"slices"
	"time"
)

// State is everything that is known of one job: the fold of its events, and what the journal keeps. It holds facts
// only: percent, status and health are computed from it and from the counters of the running disks. Apply makes a new
// State from an old one; a State that was handed out is never changed.
//
// Some JSON names are older than the names of their fields. Journals hold them, so they stay.
type State struct {
	ID ID `json:"id"`
	// random: another job of the same id has another one; "" in jobs of versions that had none
	Mark      string     `json:"mark,omitempty"`
	Spec      Spec       `json:"spec"`
	Seq       int64      `json:"seq"` // number of events applied
	Phase     Phase      `json:"phase"`
	CreatedAt time.Time  `json:"created_at"`
	StartedAt time.Time  `json:"started_at"` // when the job was first admitted; zero before
	EndedAt   time.Time  `json:"ended_at"`   // zero before it ended
	Phases    []PhaseRun `json:"phases"`     // from the first to the current one

	VM     VM             `json:"vm"`     // valid from EnablingCBT on
	Base   *CheckpointSet `json:"base"`   // where an incremental round starts; nil: all disks go full
	Rounds []Round        `json:"rounds"` // the last one is the current one
	// of this round, in the order of their keys; valid from EnablingCBT on. A snapshot can add disks
	Disks        []DiskState  `json:"disks"`
	HeldSnapshot HeldSnapshot `json:"held"`
	Final        bool         `json:"final"` // this round is the last one
	Paused       bool         `json:"paused"`
	Cancelling   bool         `json:"stopping"` // a cancel was received
	// a cancel removes the targets that the job made
	Purge    bool     `json:"purge,omitempty"`
	Fresh    bool     `json:"fresh,omitempty"` // a retry copies all disks in full
	FullOnly []DiskID `json:"anew,omitempty"`  // disks that may go full; empty means any
	// after a round that was not committed: the checkpoints of the disks that are still good
	Partial *CheckpointSet `json:"partial,omitempty"`
	// after a round that was not committed: what is durable of the disks that it did not finish
	Kept       []KeptCopy `json:"kept,omitempty"`
	Unverified bool       `json:"unproven,omitempty"` // Base is a partial set: no target of it was read back yet
	Made       []string   `json:"made,omitempty"`     // URIs of targets that did not exist before the job
	Outcome    Phase      `json:"outcome"`            // how the job will end, once that is certain; "" before
	Failure    *Failure   `json:"failure"`            // why the job failed, or why its step is retried
	Step       StepRetry  `json:"step"`               // retries of the step that runs now
	Notes      []string   `json:"notes"`              // decisions worth knowing, for people
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
	EndedAt   time.Time `json:"ended_at"`        // zero until committed
	Mode      Mode      `json:"mode"`            // full if any disk goes full; auto before it is known
	Counters  Counters  `json:"counters"`        // sums over the disks, from the commit or the retry of the job on
	Resent    int64     `json:"resent"`          // bytes, likewise
	Waited    Waited    `json:"waited,omitzero"` // likewise; zero in rounds of versions that did not keep it
	// bytes of Counters that an earlier round of the job had made durable
	Kept int64 `json:"kept,omitempty"`
}

// HeldSnapshot is the VM snapshot that the job has or may have. Its name is stored before the snapshot is taken, its
// reference after that.
type HeldSnapshot struct {
	Name string `json:"name"` // "" if the job has no snapshot
	// in the snapshot's description: the job's mark and the round; "" for a snapshot of a version that had none
	Mark     string     `json:"mark,omitempty"`
	Ref      string     `json:"ref"` // "" until the vCenter has answered
	TakenAt  time.Time  `json:"taken_at"`
	Snapshot VMSnapshot `json:"snapshot"`
}

// Failure is an error as it was classified where it occurred.
type Failure struct {
	Phase   Phase     `json:"phase"`
	Disk    DiskID    `json:"disk,omitempty"`
	Kind    Kind      `json:"kind"`
	Message string    `json:"message"`
	Next    string    `json:"next"`
	At      time.Time `json:"at"`
}

// StepRetry counts the failures of the step that runs now.
type StepRetry struct {
	Attempt int       `json:"attempt"`         // failures in a row
	Until   time.Time `json:"until"`           // end of the pause before the next try; zero outside of a pause
	Waits   int       `json:"waits,omitempty"` // of Attempt: those that were waited out, and count in no budget
	Wait    Wait      `json:"wait,omitzero"`   // for a peer that is unavailable
}

// SnapshotRef says which snapshot it is.
func (h HeldSnapshot) SnapshotRef() SnapshotRef {
	return SnapshotRef{Ref: h.Ref, Name: h.Name, Mark: h.Mark}
}

// DiskPhase is where one disk is within a round.
type DiskPhase string

// The phases of a disk.
const (
	DiskPending   DiskPhase = "pending"   // no attempt in this round yet
	DiskRunning   DiskPhase = "running"   // an attempt copies
	DiskBackoff   DiskPhase = "backoff"   // the attempt failed, the next one starts after a pause
	DiskPaused    DiskPhase = "paused"    // the attempt was stopped by a pause or a cancel
	DiskCopied    DiskPhase = "copied"    // every byte of the round is on the target, flushed
	DiskVerifying DiskPhase = "verifying" // an attempt reads the target back
	DiskDone      DiskPhase = "completed" // copied, and verified as the job's options say
	DiskFailed    DiskPhase = "failed"    // no attempt follows in this round
)

// DiskState is one disk in this round.
type DiskState struct {
	Disk           Disk      `json:"disk"`   // as the snapshot froze it; before that as preflight saw it
	Target         string    `json:"target"` // "" for a disk that was added to the VM, until its first plan
	TargetIdentity string    `json:"target_identity"`
	Volume         string    `json:"volume,omitempty"`  // id of the target's row in the ledger
	Stamped        bool      `json:"stamped,omitempty"` // a write of others to the target shows; valid with Volume
	Mode           Mode      `json:"mode"`
	ToTransfer     int64     `json:"to_transfer"` // bytes; valid from Transfer on
	Zero           bool      `json:"zero"`        // the target is known to be all zero where nothing was written
	Phase          DiskPhase `json:"phase"`
	Attempt        int       `json:"attempt"`  // of this round, from 1
	Restarts       int       `json:"restarts"` // over all rounds since the job was submitted or retried
	Streak         int       `json:"streak"`   // failures in a row without progress; the budget limits them
	BackoffUntil   time.Time `json:"backoff_until"`
	Wait           Wait      `json:"wait,omitzero"` // for a peer that is unavailable, since before the newest attempt
	LastCause      *Failure  `json:"last_cause"`
	Counters       Counters  `json:"counters"`        // of the last attempt that ended
	Sent           int64     `json:"sent"`            // bytes sent by all ended attempts of this round
	High           int64     `json:"high"`            // most bytes acknowledged in any attempt of this round
	HighSkipped    int64     `json:"high_skipped"`    // most bytes skipped in any attempt of this round
	Waited         Waited    `json:"waited,omitzero"` // by all ended copies of this round
	// change ID of the snapshot from which the target was written last when the round began; "" if that is not known
	Writer string `json:"writer,omitempty"`
	// what is durable of it is kept if the round is not committed
	Keep bool `json:"keep,omitempty"`
	// what is not copied because an earlier round made it durable; nil for nothing. Sent and High begin with it
	Kept *KeptPart `json:"kept,omitempty"`
	// most bytes read back in any verification of this round that failed
	HighVerified int64 `json:"high_verified,omitempty"`
}

// Planned says whether the first attempt at the disk in this round has begun. ToTransfer is valid then.
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

// Status is the state of the job in one word.
func (s State) Status() Status {
	if s.Paused && !s.Phase.Terminal() {
		return Paused
	}
	return phases[s.Phase].status
}

// Mode is the mode of the current or last round; before the first round that of the spec.
func (s State) Mode() Mode {
	if n := len(s.Rounds); n > 0 {
		return s.Rounds[n-1].Mode
	}
	return s.Spec.Mode
}

// DiskState finds a disk; false if the job has no disk of that id.
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

// clone is a copy. It shares only what Apply does not change.
func (s State) clone() State {
	s.Phases = slices.Clone(s.Phases)
	s.Rounds = slices.Clone(s.Rounds)
	s.Disks = slices.Clone(s.Disks)
	s.Notes = slices.Clone(s.Notes)
	s.Made = slices.Clone(s.Made)
	return s
}
