package job

import (
	"fmt"
	"time"
)

// Lease says who may use a volume now. There is one for each volume, and only the node that has the volume grants it.
// An epoch is one grant: whoever shows another epoch than the newest one is refused. Epochs only go up, and no two
// grants of a node have the same one.
//
// The journal keeps it, and changes it only if it still is as it was read (Revision).
type Lease struct {
	Volume  string      `json:"volume"` // stays when the volume's row in the ledger gets another id
	Epoch   int64       `json:"epoch"`  // of the newest grant; 0 for none yet
	State   LeaseState  `json:"state"`
	Holder  LeaseHolder `json:"holder"`            // the last one, when the lease is free
	Served  bool        `json:"served,omitempty"`  // the holder uses an export; otherwise an open file of this process
	Foreign bool        `json:"foreign,omitempty"` // an export of another program: nothing here ends its writes
	Granter string      `json:"granter,omitempty"` // random, of the run of the daemon that granted the epoch
	Server  LeaseServer `json:"server,omitzero"`   // of an export
	Granted time.Time   `json:"granted"`           // for people: no lease is decided by it
	// Checkpoint is the number of the newest checkpoint of the copy that counts. It only goes up, over all epochs.
	Checkpoint int64    `json:"checkpoint,omitempty"`
	Why        LeaseEnd `json:"why,omitempty"`  // why it ends, or why the last one ended
	Note       string   `json:"note,omitempty"` // what holds up the end
	Revision   int64    `json:"revision"`       // goes up by one with each stored change; 0 if it was never stored
}

// LeaseState is where a lease stands. The journal holds these words.
type LeaseState string

// The states. The zero Lease is free.
const (
	LeaseFree    LeaseState = "free"    // nothing writes
	LeaseOpening LeaseState = "opening" // the export of the epoch is being started
	LeaseOpen    LeaseState = "open"    // the holder may write
	LeaseEnding  LeaseState = "ending"  // the holder may not write any more, but may still be writing
)

// LeaseKind is what a holder does with the volume.
type LeaseKind string

// The kinds of holders.
const (
	HolderTransfer LeaseKind = "transfer" // prepares it, copies to it, commits it
	HolderVerify   LeaseKind = "verify"   // reads it back
	HolderSet      LeaseKind = "set"      // takes or reverts a set of restore points
	HolderGuest    LeaseKind = "guest"    // runs a VM on it
)

// LeaseHolder is who has a lease.
type LeaseHolder struct {
	Kind LeaseKind `json:"kind"`
	Node string    `json:"node"` // where the holder runs
	Job  ID        `json:"job,omitempty"`
	Disk DiskID    `json:"disk,omitempty"`
}

// String names the holder for people.
func (h LeaseHolder) String() string {
	text := "a " + string(h.Kind)
	if h.Job != "" {
		text += " of job " + string(h.Job)
	}
	if h.Node != "" {
		text += " on node " + h.Node
	}
	return text
}

// LeaseServer is the process that serves the export of an epoch. A number of a process is used again; number, start
// and boot together are not.
type LeaseServer struct {
	PID   int    `json:"pid"`   // 0 until it has been started
	Start uint64 `json:"start"` // field 22 of /proc/PID/stat: clock ticks since the boot
	Boot  string `json:"boot"`  // the kernel's id of the boot
	File  string `json:"file"`  // device and inode, or number, of what it serves
}

// LeaseEnd is why a lease ends.
type LeaseEnd string

// The ends.
const (
	EndReturned  LeaseEnd = "returned"  // the holder is done
	EndFailed    LeaseEnd = "failed"    // the volume could not be opened, or its export ended by itself
	EndExpired   LeaseEnd = "expired"   // the holder did not renew it in time
	EndRevoked   LeaseEnd = "revoked"   // an operator, or the job, took it back
	EndRestarted LeaseEnd = "restarted" // the daemon that granted it is gone
)

// LeaseEvent is a fact about a lease, as a plain value. Apply folds it into the lease.
//
//sumtype:decl
type LeaseEvent interface{ leaseEvent() }

// The events of a lease. Those with an epoch are about that grant only.
type (
	// LeaseAsked means: a holder wants the volume. Epoch is a new one. Export, if it is served.
	LeaseAsked struct {
		Holder  LeaseHolder
		Served  bool
		Foreign bool
		Epoch   int64
		Granter string
		File    string // of LeaseServer; "" if it is not served
	}
	// LeaseServed means: the export of the epoch stands.
	LeaseServed struct {
		Epoch  int64
		Server LeaseServer
	}
	// LeaseUsed means: the holder goes on with the volume in another way, as from copying to reading back.
	LeaseUsed struct {
		Epoch int64
		Kind  LeaseKind
	}
	// LeaseCheckpointed means: the holder has recorded how far it came. Numbers start at 1.
	LeaseCheckpointed struct{ Epoch, Number int64 }
	// LeaseEnded means: the holder may not use the volume any more, for whatever reason.
	LeaseEnded struct {
		Epoch int64
		Why   LeaseEnd
	}
	// LeaseHeldUp means: the end of the lease takes long, because of what Note says.
	LeaseHeldUp struct {
		Epoch int64
		Note  string
	}
	// LeaseFenced means: nothing of that epoch, nor of an earlier one, can write any more.
	LeaseFenced struct{ Epoch int64 }
	// LeaseRestarted means: the daemon began anew and found the lease.
	LeaseRestarted struct{}
)

func (LeaseAsked) leaseEvent()        {}
func (LeaseServed) leaseEvent()       {}
func (LeaseUsed) leaseEvent()         {}
func (LeaseCheckpointed) leaseEvent() {}
func (LeaseEnded) leaseEvent()        {}
func (LeaseHeldUp) leaseEvent()       {}
func (LeaseFenced) leaseEvent()       {}
func (LeaseRestarted) leaseEvent()    {}

// LeaseAction is what the granter must do next, when the lease is stored. Each can be repeated.
//
//sumtype:decl
type LeaseAction interface{ leaseAction() }

// The actions.
type (
	// ServeLease starts the export of an epoch. LeaseServed or LeaseEnded.
	ServeLease struct{ Epoch int64 }
	// FenceLease ends the export, or closes the file, and waits until nothing of the epoch can write. LeaseFenced or
	// LeaseHeldUp.
	FenceLease struct{ Epoch int64 }
)

func (ServeLease) leaseAction() {}
func (FenceLease) leaseAction() {}

// Free says whether the lease has no holder.
func (l Lease) Free() bool { return l.State == LeaseFree || l.State == "" }

// Apply folds an event into the lease, and returns what must be done when the new lease is stored. It leaves Revision
// to the one who stores it. Errors, with which nothing changes: Conflict if another holder has the lease, or if a
// volume that can't be fenced is wanted by another node; Unavailable while it is ending; Fenced for an epoch that is
// not the newest, or one whose lease is over; Invalid for an epoch that was never granted and a number that goes back.
func (l Lease) Apply(e LeaseEvent, now time.Time) (Lease, []LeaseAction, error) {
	if l.State == "" {
		l.State = LeaseFree
	}
	switch e := e.(type) {
	case LeaseAsked:
		return l.asked(e, now)
	case LeaseServed:
		if err := l.of(e.Epoch, LeaseOpening); err != nil {
			return l, nil, err
		}
		l.State, l.Server = LeaseOpen, e.Server
	case LeaseUsed:
		if err := l.of(e.Epoch, LeaseOpen); err != nil {
			return l, nil, err
		}
		l.Holder.Kind = e.Kind
	case LeaseCheckpointed:
		return l.checkpointed(e)
	case LeaseEnded:
		return l.ended(e)
	case LeaseHeldUp:
		if l.Epoch == e.Epoch && l.State == LeaseEnding {
			l.Note = e.Note
		}
	case LeaseFenced:
		if l.Epoch == e.Epoch && l.State == LeaseEnding {
			l.State, l.Note, l.Server = LeaseFree, "", LeaseServer{}
		}
	case LeaseRestarted:
		if l.State != LeaseFree {
			return l.ended(LeaseEnded{l.Epoch, EndRestarted})
		}
	}
	return l, nil, nil
}

// asked grants the lease if it is free.
func (l Lease) asked(e LeaseAsked, now time.Time) (Lease, []LeaseAction, error) {
	const op = "take lease"
	switch {
	case l.State == LeaseEnding:
		return l, nil, l.stillEnding(op)
	case l.State != LeaseFree:
		return l, nil, Errorf(op, Conflict, "Wait until it is done, or cancel it", "%s has the volume", l.Holder)
	case l.Foreign && e.Foreign && l.Epoch > 0 && l.Holder.Node != e.Holder.Node:
		return l, nil, CannotFence(op, l.Holder.Node)
	case e.Foreign && e.Served:
		return l, nil, CannotFence(op, l.Holder.Node)
	case e.Epoch <= l.Epoch:
		return l, nil, Errorf(op, Internal, "", "epoch %d does not follow %d", e.Epoch, l.Epoch)
	}
	l.Epoch, l.Holder, l.Served, l.Foreign, l.Granter = e.Epoch, e.Holder, e.Served, e.Foreign, e.Granter
	l.Granted, l.Why, l.Note, l.Server = now.UTC(), "", "", LeaseServer{File: e.File}
	if !e.Served {
		l.State = LeaseOpen
		return l, nil, nil
	}
	l.State = LeaseOpening
	return l, []LeaseAction{ServeLease{l.Epoch}}, nil
}

// CannotFence is the error for an export of another program that a second node wants.
func CannotFence(op, node string) error {
	if node == "" {
		node = "one node"
	} else {
		node = "node " + node
	}
	return Errorf(op, Conflict, "Let "+node+" go on, or name a file or a device as target",
		"another program serves the target, and nothing here ends writes that its server still holds: "+
			"no other node may take it over")
}

func (l Lease) stillEnding(op string) error {
	note := l.Note
	if note == "" {
		note = "the writes of epoch " + fmt.Sprint(l.Epoch) + " are not over"
	}
	err := Errorf(op, Unavailable, "Look at the storage of the target", "ending: %s", note)
	err.Peer = PeerTarget
	return err
}

// of refuses what is about another epoch or another state.
func (l Lease) of(epoch int64, state LeaseState) error {
	const op = "use lease"
	switch {
	case epoch > l.Epoch:
		return Errorf(op, Invalid, "", "epoch %d was never granted; the newest is %d", epoch, l.Epoch)
	case epoch < l.Epoch:
		return Errorf(op, Fenced, "", "fenced: epoch %d is over, the newest is %d", epoch, l.Epoch)
	case l.State != state:
		return Errorf(op, Fenced, "", "fenced: the lease of epoch %d is %s", epoch, l.State)
	}
	return nil
}

func (l Lease) checkpointed(e LeaseCheckpointed) (Lease, []LeaseAction, error) {
	if err := l.of(e.Epoch, LeaseOpen); err != nil {
		return l, nil, err
	}
	if e.Number < l.Checkpoint {
		return l, nil, Errorf("record checkpoint", Invalid, "", "checkpoint %d is older than %d, which is recorded",
			e.Number, l.Checkpoint)
	}
	l.Checkpoint = e.Number
	return l, nil, nil
}

// ended begins the end. An epoch that is over already is no error: the end is said once more. The first reason stays.
func (l Lease) ended(e LeaseEnded) (Lease, []LeaseAction, error) {
	if e.Epoch > l.Epoch {
		return l, nil, l.of(e.Epoch, l.State)
	}
	if e.Epoch < l.Epoch || l.State == LeaseFree {
		return l, nil, nil
	}
	if l.State != LeaseEnding {
		l.State, l.Why = LeaseEnding, e.Why
	}
	return l, []LeaseAction{FenceLease{l.Epoch}}, nil
}
