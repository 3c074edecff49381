package job

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Event is something that happened to a job, as a plain value. Apply folds events into a State; the journal keeps them.
//
//sumtype:decl
type Event interface{ event() string }

// The events.
type (
	// Submitted means: somebody asked for a job; the spec is normal.
	Submitted struct {
		ID   ID   `json:"id"`
		Spec Spec `json:"spec"`
	}
	// Admitted means: the node has room for the job.
	Admitted struct{}
	// Restarted means: the daemon was started again and found the job unfinished. Disks tells what was last shown of
	// each, so that what is sent again is counted.
	Restarted struct {
		Disks []LastSeen `json:"disks"`
	}
	// Inspected means: preflight found the VM and its targets fit.
	Inspected struct {
		VM      VM             `json:"vm"`
		Targets []Target       `json:"targets"` // one for each disk of the VM
		Base    *CheckpointSet `json:"base"`    // nil: none
		Absent  []string       `json:"absent"`  // of the targets' URIs: those that are not there yet
	}
	// CBTReady means: changed blocks are tracked. Enabled: they were not before.
	CBTReady struct {
		Enabled bool `json:"enabled"`
	}
	// SnapshotTaken means: one snapshot over all disks exists.
	SnapshotTaken struct {
		Snapshot VMSnapshot `json:"snapshot"`
	}
	// TargetsPrepared means: the targets exist and are open, and each disk's mode is decided. ToTransfer is not known.
	TargetsPrepared struct {
		Disks []DiskPlan `json:"disks"`
	}
	// Planned means: it is known what each disk must move. Journals of earlier versions have it without TargetsPrepared.
	Planned struct {
		Disks []DiskPlan `json:"disks"`
	}
	// DiskMoved means: an attempt brought every byte of the round to the target, flushed.
	DiskMoved struct {
		Disk     DiskID   `json:"disk"`
		Attempt  int      `json:"attempt"`
		Counters Counters `json:"counters"`
	}
	// DiskVerified means: what was moved was read back as the options ask, and is equal.
	DiskVerified struct {
		Disk     DiskID   `json:"disk"`
		Attempt  int      `json:"attempt"`
		Counters Counters `json:"counters"`
	}
	// AttemptFailed means: an attempt ended early; nobody writes to the target any more. Counters are how far it came.
	AttemptFailed struct {
		Disk     DiskID   `json:"disk"`
		Attempt  int      `json:"attempt"`
		Counters Counters `json:"counters"`
		Kind     Kind     `json:"kind"`
		Message  string   `json:"message"`
		Next     string   `json:"next"`
	}
	// DiskDue means: the pause before a disk's next attempt is over.
	DiskDue struct {
		Disk    DiskID `json:"disk"`
		Attempt int    `json:"attempt"` // the one that failed
	}
	// SetCommitted means: the checkpoint set of this round is durable.
	SetCommitted struct{}
	// SnapshotGone means: the snapshot that we held is no longer there.
	SnapshotGone struct{}
	// StepFailed means: what the job itself does in that phase failed.
	StepFailed struct {
		Phase   Phase  `json:"phase"`
		Kind    Kind   `json:"kind"`
		Message string `json:"message"`
		Next    string `json:"next"`
	}
	// StepDue means: the pause before the next try of a step is over.
	StepDue struct {
		Phase   Phase `json:"phase"`
		Attempt int   `json:"attempt"`
	}
	// TargetsPurged means: the targets that the job made are gone.
	TargetsPurged struct{}
	// CommandReceived means: somebody gave a command.
	CommandReceived struct {
		Verb  Verb `json:"verb"`
		Purge bool `json:"purge,omitempty"` // of a cancel: remove the targets that the job made
		Fresh bool `json:"fresh,omitempty"` // of a retry: copy everything anew
		// of a retry: only these may be copied anew; none for as many as must be
		Disks []DiskID `json:"disks,omitempty"`
	}
	// Limited means: somebody changed limits of the job. What is nil stays.
	Limited struct {
		Bandwidth *int64 `json:"bandwidth,omitempty"` // bytes per second over all disks; 0 for no limit
		Disks     *int   `json:"disks,omitempty"`     // that are copied at the same time; 0 for no limit
	}
)

// LastSeen is what was shown of a disk before the daemon ended.
type LastSeen struct {
	Disk        DiskID `json:"disk"`
	Round       int    `json:"round"`
	Transferred int64  `json:"transferred"`
	Skipped     int64  `json:"skipped"`
	Resent      int64  `json:"resent"`
}

// DiskPlan is what one disk must move in a round.
type DiskPlan struct {
	Disk           Disk   `json:"disk"` // as the snapshot froze it
	Mode           Mode   `json:"mode"` // Full or Incremental
	Reason         string `json:"reason"`
	ToTransfer     int64  `json:"to_transfer"`
	TargetIdentity string `json:"target_identity"`
	Zero           bool   `json:"zero"` // the target is known to be all zero
}

func (Submitted) event() string       { return "submitted" }
func (Admitted) event() string        { return "turn_came" }
func (Restarted) event() string       { return "restarted" }
func (Inspected) event() string       { return "inspected" }
func (CBTReady) event() string        { return "cbt_ready" }
func (SnapshotTaken) event() string   { return "snapshot_taken" }
func (TargetsPrepared) event() string { return "targets_prepared" }
func (Planned) event() string         { return "planned" }
func (DiskMoved) event() string       { return "disk_moved" }
func (DiskVerified) event() string    { return "disk_verified" }
func (AttemptFailed) event() string   { return "disk_fell" }
func (DiskDue) event() string         { return "disk_due" }
func (SetCommitted) event() string    { return "set_committed" }
func (SnapshotGone) event() string    { return "snapshot_gone" }
func (StepFailed) event() string      { return "step_fell" }
func (StepDue) event() string         { return "step_due" }
func (TargetsPurged) event() string   { return "targets_purged" }
func (CommandReceived) event() string { return "asked" }
func (Limited) event() string         { return "limited" }

func eventOf(name string) Event {
	for _, e := range []Event{
		&Submitted{}, &Admitted{}, &Restarted{}, &Inspected{}, &CBTReady{}, &SnapshotTaken{}, &TargetsPrepared{}, &Planned{}, &DiskMoved{},
		&DiskVerified{},
		&AttemptFailed{}, &DiskDue{}, &SetCommitted{}, &SnapshotGone{}, &TargetsPurged{}, &StepFailed{}, &StepDue{}, &CommandReceived{},
		&Limited{},
	} {
		if e.event() == name {
			return e
		}
	}
	return nil
}

type recorded struct {
	Type string          `json:"type"`
	At   time.Time       `json:"at"`
	Data json.RawMessage `json:"data"`
}

// EncodeEvent writes an event and the time at which it was applied as the journal keeps them.
func EncodeEvent(ev Event, at time.Time) ([]byte, error) {
	data, err := json.Marshal(ev)
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", ev.event(), err)
	}
	return json.Marshal(recorded{ev.event(), at, data})
}

// DecodeEvent reads what EncodeEvent wrote. Unknown fields are ignored, an unknown type is an error of kind Corrupt.
func DecodeEvent(b []byte) (Event, time.Time, error) {
	var r recorded
	if err := json.Unmarshal(b, &r); err != nil {
		return nil, time.Time{}, Errorf("read event", Corrupt, "", "%w", err)
	}
	p := eventOf(r.Type)
	if p == nil {
		return nil, time.Time{}, Errorf("read event", Corrupt,
			"Use the version of vmferry that wrote this journal, or a newer one", "unknown event %q", clip(r.Type, 40))
	}
	if err := json.Unmarshal(r.Data, p); err != nil {
		return nil, time.Time{}, Errorf("read event", Corrupt, "", "%s: %w", r.Type, err)
	}
	ev, ok := reflect.TypeAssert[Event](reflect.ValueOf(p).Elem())
	if !ok {
		return nil, time.Time{}, Errorf("read event", Internal, "", "%s is no event", r.Type)
	}
	return ev, r.At, nil
}
