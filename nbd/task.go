package nbd

import (
	"log/slog"
	"time"

	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/job"
)

// The limits of a [Task].
const (
	MostConnections = 16
	MostRequests    = 256 // in flight on each of them
)

// Task is one copy of one disk. Zero values mean: choose well.
type Task struct {
	// Source is an NBD URI (nbd, nbds, nbd+unix, nbds+unix, nbd+vsock, nbds+vsock), a regular file or a block device.
	Source string
	// Target is where the disk goes: an open Target, or an Opener that opens one when the size of the disk is known.
	Target Opener

	// Only restricts the copy to these ranges: nothing outside is read or written, and zeros inside are written as
	// zeros. It counts if it is not nil or Incremental is set. If a server takes whole blocks only, the ranges are
	// widened to whole blocks.
	Only job.Extents
	// Incremental says that Only counts even if it is empty: then nothing changed, and the copy is done at once.
	Incremental bool
	// Allocated, if not nil, are the ranges of the source that can hold data. The rest is neither read nor counted, and
	// it is zeroed on the target unless TargetIsZero is set.
	Allocated job.Extents
	// TargetIsZero says that the target holds only zeros where no earlier attempt of this same copy wrote.
	TargetIsZero bool

	// Capacity is the size of the disk in bytes. If it is more than 0, the source must have this size, or this size
	// rounded up to whole sectors of 512 bytes; else nothing is copied.
	Capacity int64

	// Checkpoint is the path of the file that records what is durable on the target; "" for none. A copy that finds it
	// goes on there. Identity must name the source's content, the target and all else that must not change in between.
	// If it is empty, the checkpoint is bound to the target, to the source if that is a local file, and to its size; of
	// an export, some of the copied ranges are read again and compared. Some of the copied ranges are read back from
	// the target in any case. A copy stops reading while 256 MiB, or a hundredth of the disk, are not durable yet.
	Checkpoint      string
	Identity        string
	CheckpointBytes int64         // flush and record after this many bytes; 64 MiB, without a checkpoint 256 MiB
	CheckpointEvery time.Duration // or after this time, whichever comes first; 2 s
	// KeepCheckpoint keeps the checkpoint when everything is copied, for a caller that verifies first: another Copy
	// then finds that nothing is left to do, and RecordedDigests loads what Verify needs. RemoveCheckpoint ends it. A
	// checkpoint that can't be written at the end is no error.
	KeepCheckpoint bool

	Connections int // pairs of connections; more than one only if the target says that this is safe
	Requests    int // in flight on each pair; 0 adapts it to the servers
	RequestSize int // bytes of the largest request; 0 adapts it to the servers

	// Deadline bounds every wait for a server that shows no sign of life; 60 s.
	Deadline time.Duration
	// Reconnect is how long the copy tries to reconnect after a lost connection before it fails; 0 for as long as
	// Deadline; negative: fail on the first lost connection.
	Reconnect time.Duration
	// Engine selects the code that speaks NBD after the handshake.
	Engine Engine

	NoDigest bool // do not hash what is read: Verify then has to read the source again
	Receipt  bool // also make the BLAKE3 digest of the whole disk; only for a copy of the whole disk
	// Limiters, in bytes, may be shared between copies and changed at any time; all of them must grant each byte that
	// is read. Budget limits the bytes in flight at the sources of all copies that share it; nil for no limit.
	Limiters []*rate.Limiter
	Budget   *Budget
	// MustRecord makes a copy hold if its checkpoint can't be written and too much waits for it, and fail if that lasts
	// longer than Deadline. Without it the copy goes on, and the work that a kill costs has no bound.
	MustRecord bool
	// OnlyRaw refuses a local source, and a local target that was not made just now, that begins as an image of another
	// format than raw; see FormatOf. Without it, and of an export in any case, all bytes are those of a disk.
	OnlyRaw bool
	// TLS is for a source of scheme nbds; a target has its own.
	TLS TLS
	// Log gets what is odd but no failure; nil for no log.
	Log *slog.Logger
}

// Result is how a copy ended. After an error it says how far the copy came.
type Result struct {
	job.Counters
	Capacity int64         // of the disk, bytes; 0 if the copy ended before it knew
	Resumed  int64         // bytes that were durable already and were not copied again
	Resent   int64         // bytes sent again that an earlier attempt had sent, as far as checkpoints tell
	Duration time.Duration // of this attempt
	Threads  int           // pairs of connections in use
	Complete bool          // everything is on the target, and durable

	Bad        job.Extents // ranges that could not be read or written after all retries
	Reconnects int         // how often lost connections were replaced
	Digests    *Digests    // of what was read; nil if not wanted, or if they do not cover everything that was copied
	BLAKE3     string      // of the whole disk, in hex as by b3sum; "" if not wanted or not complete
}

// Engine selects the code that speaks NBD after the handshake, which libnbd always does.
type Engine string

// The engines. Both make the same copies, byte for byte.
const (
	EngineAuto   Engine = ""       // our own code on libnbd's socket where that is possible, else libnbd
	EngineLibnbd Engine = "libnbd" // libnbd only
)

const stdio = "-" // what many programs take for standard input or output

// restricted says whether Only counts.
func (t Task) restricted() bool { return t.Incremental || t.Only != nil }

func (t Task) withDefaults() Task {
	if t.CheckpointBytes <= 0 {
		t.CheckpointBytes = generationBytes
		if t.Checkpoint != "" {
			t.CheckpointBytes = checkpointBytes
		}
	}
	if t.CheckpointEvery <= 0 {
		t.CheckpointEvery = defaultCheckpointEvery
	}
	if t.Deadline <= 0 {
		t.Deadline = defaultDeadline
	}
	if t.Reconnect == 0 {
		t.Reconnect = t.Deadline
	}
	if t.Log == nil {
		t.Log = slog.New(slog.DiscardHandler)
	}
	return t
}

// targetName is for errors; a task without a target is refused by Check.
func (t Task) targetName() string {
	if t.Target == nil {
		return "no target"
	}
	return t.Target.Name()
}

// Check refuses what cannot be meant, before anything is opened, with an error of kind [job.Invalid]. Copy and Verify
// ask it themselves.
func (t Task) Check() error {
	const op = "check copy"
	switch {
	case t.Source == "" || t.Target == nil || t.Target.Name() == "":
		return job.Errorf(op, job.Invalid, "", "source and target must be given")
	case t.Source == stdio || t.Target.Name() == stdio:
		return job.Errorf(op, job.Invalid, "Name a file, or write ./- if there is one of that name",
			"disks are not copied from or to standard input and output")
	case Redact(t.Source) == t.Target.Name():
		return job.Errorf(op, job.Invalid, "", "source and target are the same: %s", Redact(t.Source))
	case t.Engine != EngineAuto && t.Engine != EngineLibnbd:
		return job.Errorf(op, job.Invalid, "Use libnbd, or leave it out", "there is no engine %q", t.Engine)
	case t.Receipt && t.restricted():
		return job.Errorf(op, job.Invalid, "", "a receipt is for a copy of the whole disk, not of some ranges")
	case t.Requests > MostRequests || t.Connections > MostConnections || t.Connections < 0 || t.Requests < 0 ||
		t.RequestSize < 0:
		return job.Errorf(op, job.Invalid, "",
			"%d connections with %d requests each cannot be: at most %d with %d, and 0 for as many as pay off",
			t.Connections, t.Requests, MostConnections, MostRequests)
	case t.RequestSize > largestRequestSize || t.RequestSize%512 != 0:
		return job.Errorf(op, job.Invalid, "",
			"a request cannot have %d bytes: it has a multiple of 512, and at most %d", t.RequestSize,
			largestRequestSize)
	case t.Incremental && t.Allocated != nil:
		return job.Errorf(op, job.Invalid, "", "allocated ranges belong to a full round, not to an incremental one")
	case IsURI(t.Source):
		return t.TLS.Covers(t.Source)
	default:
		return nil
	}
}
