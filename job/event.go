package job

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"
)

// Event is a fact about a job, as a plain value. Apply folds events into a State; the journal keeps them.
//
//sumtype:decl
type Event interface{ event() string }

// The events.
type (
	// Submitted means: a caller submitted the job. Spec has passed Normal.
	Submitted struct {
		ID   ID     `json:"id"`
		Mark string `json:"mark,omitempty"` // random
		Spec Spec   `json:"spec"`
	}
	// Admitted means: the node runs fewer jobs than its limit and starts this one.
	Admitted struct {
		Mark string `json:"mark,omitempty"` // random, for a job that has no mark yet
	}
	// Restarted means: the daemon was started again and found the job unfinished. Disks holds the last reported numbers
	// of each disk, so that bytes sent again are counted.
	Restarted struct {
		Disks []LastSeen `json:"disks"`
		Mark  string     `json:"mark,omitempty"` // random, for a job that has no mark yet
	}
	// Inspected means: preflight found the VM, and its targets fit.
	Inspected struct {
		VM      VM             `json:"vm"`
		Targets []Target       `json:"targets"` // one for each disk of the VM
		Base    *CheckpointSet `json:"base"`    // the committed set of the VM; nil for none
		Absent  []string       `json:"absent"`  // URIs of the targets that do not exist yet
		Notes   []string       `json:"notes,omitempty"`
	}
	// CBTReady means: changed blocks are tracked. Enabled says that tracking was off before.
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
		Made  []string   `json:"made,omitempty"` // URIs of targets of new disks that did not exist before
	}
	// Planned means: it is known how many bytes each disk must move. Journals of earlier versions hold Planned without
	// TargetsPrepared.
	Planned struct {
		Disks []DiskPlan `json:"disks"`
	}
	// DiskMoved means: an attempt brought every byte of the round to the target and flushed it.
	DiskMoved struct {
		Disk     DiskID   `json:"disk"`
		Attempt  int      `json:"attempt"`
		Counters Counters `json:"counters"`
	}
	// DiskVerified means: the target was read back as the options say, and equals the source.
	DiskVerified struct {
		Disk     DiskID   `json:"disk"`
		Attempt  int      `json:"attempt"`
		Counters Counters `json:"counters"`
	}
	// AttemptFailed means: an attempt ended before its disk was done, and no longer writes to the target. Counters say
	// how far the attempt came.
	AttemptFailed struct {
		Disk     DiskID   `json:"disk"`
		Attempt  int      `json:"attempt"`
		Counters Counters `json:"counters"`
		Kind     Kind     `json:"kind"`
		Message  string   `json:"message"`
		Next     string   `json:"next"`
		// the peer at which it arose; "" if none, and in events of versions without patience
		What  Peer      `json:"what,omitempty"`
		Since time.Time `json:"since,omitzero"` // when that peer was heard last; zero if it is not known
	}
	// DiskDue means: the pause before a disk's next attempt is over.
	DiskDue struct {
		Disk    DiskID `json:"disk"`
		Attempt int    `json:"attempt"` // the attempt that failed
	}
	// SetCommitted means: the checkpoint set of this round is durable.
	SetCommitted struct{}
	// SnapshotGone means: the snapshot of the job no longer exists.
	SnapshotGone struct{}
	// StepFailed means: a step of the job itself, in that phase, failed.
	StepFailed struct {
		Phase   Phase     `json:"phase"`
		Kind    Kind      `json:"kind"`
		Message string    `json:"message"`
		Next    string    `json:"next"`
		What    Peer      `json:"what,omitempty"` // as in AttemptFailed
		Since   time.Time `json:"since,omitzero"`
	}
	// StepDue means: the pause before a step's next try is over.
	StepDue struct {
		Phase   Phase `json:"phase"`
		Attempt int   `json:"attempt"` // the try that failed
	}
	// TargetsPurged means: the targets that the job made are removed.
	TargetsPurged struct{}
	// CommandReceived means: a caller gave a command.
	CommandReceived struct {
		Verb  Verb `json:"verb"`
		Purge bool `json:"purge,omitempty"` // of a cancel: remove the targets that the job made
		Fresh bool `json:"fresh,omitempty"` // of a retry: copy all disks in full
		// of a retry: the only disks that may be copied in full; empty means any
		Disks []DiskID `json:"disks,omitempty"`
	}
	// Limited means: a caller changed limits of the job. A nil limit stays.
	Limited struct {
		Bandwidth *int64 `json:"bandwidth,omitempty"` // bytes per second over all disks; 0 for no limit
		Disks     *int   `json:"disks,omitempty"`     // copied at the same time; 0 for no limit
		// as in Options
		Patience          *time.Duration `json:"patience,omitempty"`
		LastRoundPatience *time.Duration `json:"last_round_patience,omitempty"`
	}
)

// LastSeen is what the last report before the daemon ended said of a disk.
type LastSeen struct {
	Disk        DiskID `json:"disk"`
	Round       int    `json:"round"`
	Transferred int64  `json:"transferred"`
	Skipped     int64  `json:"skipped"`
	Resent      int64  `json:"resent"`
}

// DiskPlan is what one disk must move in a round.
type DiskPlan struct {
	Disk           Disk   `json:"disk"`   // as the snapshot froze it
	Mode           Mode   `json:"mode"`   // Full or Incremental
	Reason         string `json:"reason"` // why Mode is Full; "" if there is nothing to say
	ToTransfer     int64  `json:"to_transfer"`
	Target         string `json:"target,omitempty"` // for a disk that has none yet: it was added since preflight
	TargetIdentity string `json:"target_identity"`
	Volume         string `json:"volume,omitempty"`  // id of the target's row in the ledger
	Stamped        bool   `json:"stamped,omitempty"` // a write of others to the target shows; valid with Volume
	Zero           bool   `json:"zero"`              // the target is known to be all zero
	// change ID of the snapshot from which the target was written last when the round began; "" if that is not known
	Writer string `json:"writer,omitempty"`
	// what is durable of the disk can be kept if the round is not committed
	Keep bool `json:"keep,omitempty"`
	// what an earlier round made durable; nil for nothing. Its numbers are valid in Planned
	Kept    *KeptPart `json:"kept,omitempty"`
	Foreign string    `json:"-"` // why the target is not as our last writer left it; "" if it is
}

// Journals hold these names, so they never change, also where the Go name of the event is another one now.

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

// eventOf returns a pointer to a zero event of the stored name; nil if no event has that name.
func eventOf(name string) Event {
	for _, e := range []Event{
		&Submitted{}, &Admitted{}, &Restarted{}, &Inspected{}, &CBTReady{}, &SnapshotTaken{}, &TargetsPrepared{},
		&Planned{}, &DiskMoved{}, &DiskVerified{}, &AttemptFailed{}, &DiskDue{}, &SetCommitted{}, &SnapshotGone{},
		&TargetsPurged{}, &StepFailed{}, &StepDue{}, &CommandReceived{}, &Limited{},
	} {
		if e.event() == name {
			return e
		}
	}
	return nil
}

// recorded is the stored form of an event.
type recorded struct {
	Type string          `json:"type"`
	At   time.Time       `json:"at"`
	Data json.RawMessage `json:"data"`
}

// EncodeEvent writes an event, and the time at which it was applied, in the journal's form.
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
