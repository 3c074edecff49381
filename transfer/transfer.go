package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/nbd/kit"
)

// Source is what a transfer needs of the vCenter. Every method may be called from many goroutines, blocks until done or
// until ctx ends, and fails with a job.Error.
type Source interface {
	// Export says where a frozen disk can be read.
	Export(ctx context.Context, vm job.VM, snap job.VMSnapshot, disk job.DiskID) (job.Export, error)
	// SessionCookie is the newest cookie of the session with the vCenter.
	SessionCookie(ctx context.Context) (job.Secret, error)
	// ChangedAreas lists what changed on a disk since a change ID, or what is allocated for "*".
	ChangedAreas(ctx context.Context, vm job.VM, snap job.VMSnapshot, disk job.DiskID, since string) (job.Extents,
		error)
}

// Targets gives attempts the open target of a disk.
type Targets interface {
	// Handle gives the target to an attempt. identity is what the job knows of it; another target is refused. zero says
	// that it was all zero when the round was prepared, stillZero that it holds zeros wherever this round has not
	// written. write says that the attempt writes.
	Handle(ctx context.Context, ref job.VolumeRef, identity string, zero, write bool) (target *nbd.Target,
		stillZero bool, err error)
	// Settle is called when an attempt that wrote has ended. From then on a write of others shows.
	Settle(ctx context.Context, ref job.VolumeRef) error
}

// Config is what Transfers are made of.
type Config struct {
	Source      Source
	Targets     Targets
	RunDir      string        // private sockets and secrets, one folder for each attempt; short: sockets have 107 bytes
	Checkpoints string        // what is durable of each disk, one folder for each job
	Connections int           // of one disk to its host, at most; 0 for 1
	Ready       func() error  // whether disks can be read at all; nil asks for nbdkit
	Deadline    time.Duration // for each request without a sign of life; 0 for the engine's own
	TLS         nbd.TLS       // of servers that run already and serve the disks
	Log         *slog.Logger  // nil discards
}

// Transfers copies and verifies the disks of all jobs of a node. Its methods may be called from many goroutines.
type Transfers struct {
	Config
	*Permits
}

// New makes one that keeps to those permits. The folders are made when they are needed.
func New(c Config, p *Permits) *Transfers {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Ready == nil {
		c.Ready = kit.Installed
	}
	c.Connections = max(1, c.Connections)
	return &Transfers{c, p}
}

// Ready says whether disks can be read at all: nil, or an error of kind Missing that names the package.
func (t *Transfers) Ready() error { return t.Config.Ready() }

// Run makes one attempt at one disk: it copies, or reads back if the task says how. It returns when everything is on
// the target and flushed, or compared, or when ctx ends; a copy has then recorded what is durable, and the next Run
// goes on from it. The counters say how far it came in each case. show gets what can be seen of it, again at each step.
func (t *Transfers) Run(ctx context.Context, task job.TransferTask, show func(job.TransferView)) (job.Counters, error) {
	last := task.Disk.Counters
	if task.Verify != "" {
		show(job.TransferView{Counters: func() job.Counters { return last }})
	}
	a := attempt{Transfers: t, task: task, show: show}
	var err error
	if a.areas, a.known, err = t.Areas(ctx, task); err != nil {
		return last, err
	}
	p := &Permit{Job: task.Job, Limits: task.Limits, Host: task.VM.Host, Connections: t.Connections}
	show(job.TransferView{
		Counters: func() job.Counters { return last },
		WaitsFor: func() string { return t.Waits(p) },
	})
	if a.share, err = t.Acquire(ctx, p); err != nil {
		return last, err
	}
	defer t.Release(p)
	if task.Verify != "" {
		return a.verify(ctx)
	}
	return a.copy(ctx)
}

// Areas says what a disk must move: what changed since the last round, or what is allocated. known is false if that
// can't be told; then the whole disk is looked at. Errors: CBTInvalid if the change ID of an incremental round is no
// longer good, and what the vCenter answers.
func (t *Transfers) Areas(ctx context.Context, task job.TransferTask) (areas job.Extents, known bool, err error) {
	d := task.Disk
	if d.Mode == job.Incremental {
		areas, err = t.Source.ChangedAreas(ctx, task.VM, task.Snapshot, d.Disk.ID, task.Since)
		return areas, err == nil, err
	}
	if d.Disk.ChangeID == "" {
		return nil, false, nil
	}
	areas, err = t.Source.ChangedAreas(ctx, task.VM, task.Snapshot, d.Disk.ID, "*")
	if k := job.KindOf(err); k == job.CBTInvalid || k == job.Unsupported {
		return nil, false, nil // this datastore can't say what is allocated
	}
	return areas, err == nil, err
}

// Discard drops the checkpoints of a job.
func (t *Transfers) Discard(_ context.Context, id job.ID) error {
	t.Forget(id)
	if err := os.RemoveAll(t.jobDir(id)); err != nil {
		return job.SystemError("drop checkpoints", "", err)
	}
	return nil
}

// jobDir is safe for any id: ids hold no slash, and "." and ".." are none.
func (t *Transfers) jobDir(id job.ID) string { return filepath.Join(t.Checkpoints, string(id)) }

// attempt is one run.
type attempt struct {
	*Transfers
	task  job.TransferTask
	show  func(job.TransferView)
	areas job.Extents // what changed, or in a full round what is allocated
	known bool        // areas is valid, even if it is empty; false in a full round if that can't be told
	share Share
}

// copy copies the disk, and keeps its checkpoint for the verification. A checkpoint that does not fit is put aside, and
// the copy begins anew, once.
func (a attempt) copy(ctx context.Context) (job.Counters, error) {
	path := a.checkpoint()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return a.task.Disk.Counters, job.SystemError("make checkpoint folder", "", err)
	}
	a.dropEarlier()
	var meter *nbd.Meter
	err := a.withSource(ctx, func(ctx context.Context, s *kit.Server, e job.Export) (err error) {
		target, zero, err := a.target(ctx, true)
		if err != nil {
			return err
		}
		defer func() { err = a.settle(ctx, err) }()
		task := a.copyTask(target, zero, s, e, path)
		once := func() error {
			meter = &nbd.Meter{}
			a.show(job.TransferView{
				Counters: meter.Counters, Silence: meter.Silence, Transport: e.Transport, SourcePID: s.PID(),
			})
			_, err := nbd.Copy(ctx, task, meter)
			return err
		}
		if err = once(); !rejected(err, path) {
			return err
		}
		a.log().Warn("a checkpoint was put aside; the disk begins anew", "err", err)
		task.TargetIsZero = false // what is on it is not known
		return once()
	})
	if meter == nil {
		return a.task.Disk.Counters, err
	}
	return meter.Counters(), err
}

// rejected: the copy refused what it found recorded, and put it aside.
func rejected(err error, path string) bool {
	if k := job.KindOf(err); k != job.Corrupt && k != job.Conflict {
		return false
	}
	_, kept := os.Stat(path + ".rejected")
	_, there := os.Stat(path)
	return kept == nil && errors.Is(there, os.ErrNotExist)
}

func (a attempt) target(ctx context.Context, write bool) (target *nbd.Target, zero bool, err error) {
	d := a.task.Disk
	target, zero, err = a.Targets.Handle(ctx, a.task.Volume(), d.TargetIdentity, d.Zero, write)
	return target, zero, job.At(job.PeerTarget, err)
}

// settle stores how the attempt leaves the target. An attempt that is done counts only if that is stored.
func (a attempt) settle(ctx context.Context, err error) error {
	settled := job.At(job.PeerTarget, a.Targets.Settle(ctx, a.task.Volume()))
	if err == nil {
		return settled
	}
	if settled != nil {
		a.log().Warn("how the attempt left the target could not be stored", "err", settled)
	}
	return err
}

func (a attempt) copyTask(target *nbd.Target, zero bool, s *kit.Server, e job.Export, path string) nbd.Task {
	d := a.task.Disk
	task := nbd.Task{
		Source: s.URI(), Target: target, Capacity: d.Disk.Capacity, TargetIsZero: zero,
		Checkpoint: path, KeepCheckpoint: true, Identity: a.identity(),
		Connections: e.Connections, RequestSize: e.RequestSize,
		Deadline: a.Deadline, TLS: a.TLS, Log: a.log(), Limiters: a.share.Limiters, Budget: a.share.Budget,
		MustRecord: true,
		Reconnect:  -1, // a lost connection ends the attempt; the next one is the job's decision, and can be seen
	}
	a.restrict(&task)
	return task
}

// restrict tells a copy what to move.
func (a attempt) restrict(task *nbd.Task) {
	switch {
	case a.task.Disk.Mode == job.Incremental:
		task.Only, task.Incremental = a.areas, true
	case a.known:
		task.Allocated = a.areas
		if task.Allocated == nil {
			task.Allocated = job.Extents{}
		}
	}
}

// digests are those that the copy of this round has recorded; nil if there are none to be believed, or if the
// verification looks at more than was copied: what was kept from an earlier round, too. Then both sides are read.
func (a attempt) digests() *nbd.Digests {
	if a.task.Verify != job.VerifyFull || a.task.Unverified || a.task.Disk.Kept != nil {
		return nil
	}
	task := nbd.Task{Checkpoint: a.checkpoint(), Identity: a.identity(), Capacity: a.task.Disk.Disk.Capacity}
	a.restrict(&task)
	d, err := nbd.RecordedDigests(task)
	if err != nil {
		a.log().Info("the verification reads the source again: it has no digests of the copy", "err", err)
	}
	return d
}

// identity names what a checkpoint belongs to: the frozen content, the target, and what is copied between them.
func (a attempt) identity() string {
	t, d := a.task, a.task.Disk
	return strings.Join([]string{
		string(t.Job), fmt.Sprint(t.Round), t.VM.UUID, t.Snapshot.Ref, string(d.Disk.ID), d.Disk.BackingID,
		d.Disk.ChangeID, fmt.Sprint(d.Disk.Capacity), d.TargetIdentity, string(d.Mode),
	}, "|")
}

func (a attempt) checkpoint() string {
	return filepath.Join(a.jobDir(a.task.Job), fmt.Sprintf("%s-%d.checkpoint", a.task.Disk.Disk.ID, a.task.Round))
}

// verify reads the target back over new connections, and compares it with the digests of the copy or with the source.
// What a full round did not move is zero on both.
func (a attempt) verify(ctx context.Context) (job.Counters, error) {
	d, meter := a.task.Disk, &nbd.Meter{}
	counters := func() job.Counters {
		c, v := d.Counters, meter.Counters()
		c.Verified, c.ToVerify, c.Requests = v.Verified, v.ToVerify, c.Requests+v.Requests
		c.SourceWait += v.SourceWait
		c.TargetWait += v.TargetWait
		c.ThrottleWait += v.ThrottleWait
		return c
	}
	extents := a.areas
	looks := d.Mode == job.Incremental && !a.task.Unverified && nbd.IsURI(d.Target)
	if d.Mode == job.Incremental && len(extents) == 0 && !a.task.Unverified && !looks {
		return counters(), nil // nothing changed, nothing was moved
	}
	if a.task.Unverified || d.Mode != job.Incremental && (!a.known || a.task.Verify == job.VerifyFull) {
		extents = job.Whole(d.Disk.Capacity)
	}
	err := a.withSource(ctx, func(ctx context.Context, s *kit.Server, e job.Export) error {
		a.show(job.TransferView{
			Counters: counters, Silence: meter.Silence, Transport: e.Transport, SourcePID: s.PID(),
		})
		target, _, err := a.target(ctx, false)
		if err != nil {
			return err
		}
		task := nbd.VerifyTask{
			Source: s.URI(), Target: target, Extents: extents, Mode: a.task.Verify, Capacity: d.Disk.Capacity,
			Deadline: a.Deadline, Connections: e.Connections, RequestSize: e.RequestSize, Log: a.Log,
			Limiters: a.share.Limiters, Budget: a.share.Budget, // a target that comes back is gone on with
			Digests: a.digests(), TLS: a.TLS,
		}
		if len(extents) > 0 {
			if _, err = nbd.Verify(ctx, task, meter); err != nil {
				return err
			}
		}
		if !looks {
			return nil
		}
		return a.lookAround(ctx, task)
	})
	if job.KindOf(err) == job.Corrupt {
		// A copy with other bytes can't be mended from its checkpoint.
		err = errors.Join(err, nbd.RemoveCheckpoint(a.checkpoint()))
	}
	return counters(), err
}

// lookAround compares some places of an export with the disk, also such that the round did not move: another disk may
// be served under its URI since the last round.
func (a attempt) lookAround(ctx context.Context, task nbd.VerifyTask) error {
	task.Extents, task.Mode, task.Digests = nbd.Places(task.Capacity), job.VerifyFull, nil
	_, err := nbd.Verify(ctx, task, &nbd.Meter{})
	if job.KindOf(err) != job.Corrupt {
		return err
	}
	return job.Errorf("look at places that this round did not move", job.Corrupt,
		fmt.Sprintf("Find out which disk is served there, then run vmferry retry %s --fresh", a.task.Job),
		"%s is another disk than in the last round, or others have written to it: %w", nbd.Redact(a.task.Disk.Target),
		err)
}

func (a attempt) log() *slog.Logger {
	return a.Log.With("job_id", a.task.Job, "disk", a.task.Disk.Disk.ID)
}
