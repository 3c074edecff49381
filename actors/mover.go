package actors

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Exporter says where a frozen disk can be read, and renews what expires meanwhile.
type Exporter interface {
	Export(ctx context.Context, vm job.VM, snap job.VMSnapshot, disk job.DiskID) (job.Export, error)
	// SessionCookie is the newest cookie of the session with the vCenter.
	SessionCookie(ctx context.Context) (job.Secret, error)
}

// MoverConfig is what a NBDMover is made of.
type MoverConfig struct {
	Exporter    Exporter
	RunDir      string // private sockets and secrets, one folder for each attempt; short, for sockets have 107 bytes
	Checkpoints string // what is durable of each disk, one folder for each job
	Allow       nbd.Allow
	// whether disks can be read at all, asked before anything is changed; nil for nbd.Installed
	Ready    func() error
	Deadline time.Duration // for each request without a sign of life; 0 for the engine's own
	Log      *slog.Logger
}

// NBDMover is the Mover of package nbd: one nbdkit for each disk and attempt in front of the source, and the copy
// engine.
type NBDMover struct{ MoverConfig }

// NewMover makes one. The folders are made when they are needed.
func NewMover(c MoverConfig) *NBDMover {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Ready == nil {
		c.Ready = nbd.Installed
	}
	return &NBDMover{c}
}

// Limits of waiting around a copy.
const (
	stopServer = 10 * time.Second
	renewEvery = 15 * time.Second // a session can end at any time; until it is renewed, reads are retried
)

// Check looks whether the target may be used and is large enough. It changes nothing.
func (m *NBDMover) Check(ctx context.Context, target string, capacity int64) (TargetFact, error) {
	if err := errors.Join(m.Ready(), m.Allow.Check(target)); err != nil {
		return TargetFact{}, err
	}
	info, err := nbd.InspectTarget(ctx, target)
	switch {
	case err != nil:
		return TargetFact{}, err
	case !info.Exists:
		return TargetFact{Place: filepath.Clean(target)}, parentIsFolder(target)
	case info.Kind == nbd.Null:
		return TargetFact{Exists: true, Identity: info.Identity, Place: info.Identity}, nil
	case info.ReadOnly:
		return TargetFact{}, job.Errorf("check target", job.Permission, "Choose a target that can be written",
			"%s is read-only", nbd.Redact(target))
	case info.Size < capacity:
		return TargetFact{}, job.Errorf("check target", job.Invalid,
			fmt.Sprintf("Make it at least %d bytes large, or name another one", capacity),
			"%s has %d bytes, the disk has %d", nbd.Redact(target), info.Size, capacity)
	}
	return TargetFact{Exists: true, Identity: info.Identity, Place: info.Identity, Stamp: info.Stamp}, nil
}

// parentIsFolder says whether a file could be made: the nearest thing above it that exists must be a folder.
func parentIsFolder(path string) error {
	dir := filepath.Dir(path)
	for {
		st, err := os.Stat(dir)
		switch {
		case err == nil && st.IsDir():
			return nil
		case err == nil:
			return job.Errorf("check target", job.Invalid, "", "%s is not a folder", dir)
		case !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir):
			return job.Errorf("check target", job.Invalid, "", "%w", err)
		}
		dir = filepath.Dir(dir)
	}
}

// Prepare makes a file that does not exist, with holes only.
func (m *NBDMover) Prepare(ctx context.Context, target string, capacity int64) (TargetFact, error) {
	fact, err := m.Check(ctx, target, capacity)
	if err != nil {
		return fact, err
	}
	if fact.Exists {
		fact.Zero = nbd.AllHoles(target)
		return fact, nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fact, job.Errorf("make target", job.Permission, "", "%w", err)
	}
	if err := nbd.CreateTarget(ctx, target, capacity); err != nil {
		return fact, err
	}
	fact, err = m.Check(ctx, target, capacity)
	fact.Zero = err == nil
	return fact, err
}

// Move copies one disk. A checkpoint that does not fit is put aside, and the copy begins anew, once.
func (m *NBDMover) Move(ctx context.Context, t MoveTask, live *Live) (job.Counters, error) {
	path := m.checkpoint(t)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return t.Disk.Counters, job.Errorf("make checkpoint folder", job.NoSpace, "", "%w", err)
	}
	var meter *nbd.Meter
	err := m.withSource(ctx, t, func(ctx context.Context, s *nbd.Server, e job.Export) error {
		meter = &nbd.Meter{}
		live.Set(Running{Counters: meter.Counters, Transport: e.Transport, SourcePID: s.PID()})
		task := m.task(t, s, e, path)
		_, err := nbd.Copy(ctx, task, meter)
		if rejected(err, path) {
			m.Log.Warn("a checkpoint was put aside; the disk begins anew", "job_id", t.Job, "disk", t.Disk.Disk.ID,
				"err", err)
			meter = &nbd.Meter{}
			live.Set(Running{Counters: meter.Counters, Transport: e.Transport, SourcePID: s.PID()})
			task.TargetIsZero = false // nobody knows what is on it
			_, err = nbd.Copy(ctx, task, meter)
		}
		return err
	})
	if meter == nil {
		return t.Disk.Counters, err
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

func (m *NBDMover) task(t MoveTask, s *nbd.Server, e job.Export, path string) nbd.Task {
	task := nbd.Task{
		Source: s.URI(), Target: t.Disk.Target, Capacity: t.Disk.Disk.Capacity, TargetIsZero: t.Disk.Zero,
		Checkpoint: path, Identity: identity(t), Connections: e.Connections, RequestSize: e.RequestSize,
		Deadline: m.Deadline, Log: m.Log.With("job_id", t.Job, "disk", t.Disk.Disk.ID),
		Limiters: t.Limiters, Budget: t.Budget, MustRecord: true,
		Reconnect: -1, // a lost connection ends the attempt; the next one is the job's decision, and can be seen
	}
	switch {
	case t.Disk.Mode == job.Incremental:
		task.Only, task.Incremental = t.Areas, true
	case t.AreasKnown:
		task.Allocated = t.Areas
		if task.Allocated == nil {
			task.Allocated = job.Extents{}
		}
	}
	return task
}

// identity names what a checkpoint belongs to: the frozen content, the target, and what is copied between them.
func identity(t MoveTask) string {
	return strings.Join([]string{
		string(t.Job), fmt.Sprint(t.Round), t.VM.UUID, t.Snapshot.Ref, string(t.Disk.Disk.ID), t.Disk.Disk.BackingID,
		t.Disk.Disk.ChangeID,
		fmt.Sprint(t.Disk.Disk.Capacity), t.Disk.TargetIdentity, string(t.Disk.Mode),
	}, "|")
}

// Verify reads both ends back over new connections. What a full round did not move is zero on both.
func (m *NBDMover) Verify(ctx context.Context, t MoveTask, mode job.VerifyMode, live *Live) (job.Counters, error) {
	meter := &nbd.Meter{}
	counters := func() job.Counters {
		c, v := t.Disk.Counters, meter.Counters()
		c.Verified, c.ToVerify, c.Requests = v.Verified, v.ToVerify, c.Requests+v.Requests
		return c
	}
	extents := t.Areas
	if t.Disk.Mode == job.Incremental && len(extents) == 0 && !t.Unverified {
		return counters(), nil // nothing changed, nothing was moved
	}
	if t.Unverified || t.Disk.Mode != job.Incremental && (!t.AreasKnown || mode == job.VerifyFull) {
		extents = job.Whole(t.Disk.Disk.Capacity)
	}
	err := m.withSource(ctx, t, func(ctx context.Context, s *nbd.Server, e job.Export) error {
		live.Set(Running{Counters: counters, Transport: e.Transport, SourcePID: s.PID()})
		_, err := nbd.Verify(ctx, nbd.VerifyTask{
			Source: s.URI(), Target: t.Disk.Target, Extents: extents, Mode: mode, Capacity: t.Disk.Disk.Capacity,
			Deadline: m.Deadline, Connections: e.Connections, RequestSize: e.RequestSize, Log: m.Log,
			// a target that comes back is gone on with: what was read back stays so
			Limiters: t.Limiters, Budget: t.Budget,
		}, meter)
		return err
	})
	return counters(), err
}

// withSource runs f with a server in front of the frozen disk. Whatever f says, the reason that the server gives comes
// first: it knows why it could not read.
func (m *NBDMover) withSource(ctx context.Context, t MoveTask,
	f func(context.Context, *nbd.Server, job.Export) error) (err error) {
	export, err := m.Exporter.Export(ctx, t.VM, t.Snapshot, t.Disk.Disk.ID)
	if err != nil {
		return err
	}
	dir, err := m.runDir(t)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	log := m.Log.With("job_id", t.Job, "disk", t.Disk.Disk.ID)
	server, err := nbd.Serve(ctx, export, dir, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	renewed := make(chan struct{})
	go func() { defer close(renewed); m.renew(ctx, server, export) }()
	err = f(ctx, server, export)
	if cause := server.Cause(); err != nil && ctx.Err() == nil && cause != nil {
		log.Info("the source's server gave the reason", "copy_err", err, "err", cause)
		err = cause
	}
	cancel()
	<-renewed
	stopping, end := context.WithTimeout(context.WithoutCancel(ctx), stopServer)
	defer end()
	if serr := server.Stop(stopping); serr != nil {
		log.Warn("nbdkit did not end well", "err", serr)
	}
	return err
}

// renew hands the newest session cookie to a server that reads with one.
func (m *NBDMover) renew(ctx context.Context, s *nbd.Server, e job.Export) {
	for _, p := range e.Params {
		if !p.Renewed {
			continue
		}
		for ctx.Err() == nil {
			pause(ctx, renewEvery)
			if ctx.Err() != nil {
				return
			}
			cookie, err := m.Exporter.SessionCookie(ctx)
			if err == nil {
				err = s.Renew(p.Key, cookie)
			}
			if err != nil && ctx.Err() == nil {
				m.Log.Warn("the session cookie could not be renewed", "err", err)
			}
		}
	}
}

// runDir makes the private folder of an attempt. Its name is short and tells nothing.
func (m *NBDMover) runDir(t MoveTask) (string, error) {
	sum := sha256.Sum256([]byte(fmt.Sprintf("%s/%s", t.Job, t.Disk.Disk.ID)))
	if err := os.MkdirAll(m.RunDir, 0o700); err != nil {
		return "", job.Errorf("make run folder", job.NoSpace, "", "%w", err)
	}
	dir, err := os.MkdirTemp(m.RunDir, hex.EncodeToString(sum[:3])+"-")
	if err != nil {
		return "", job.Errorf("make run folder", job.NoSpace, "", "%w", err)
	}
	return dir, nil
}

func (m *NBDMover) checkpoint(t MoveTask) string {
	return filepath.Join(m.jobDir(t.Job), fmt.Sprintf("%s-%d.checkpoint", t.Disk.Disk.ID, t.Round))
}

// jobDir is safe for any id: ids hold no slash, and "." and ".." are none.
func (m *NBDMover) jobDir(id job.ID) string { return filepath.Join(m.Checkpoints, string(id)) }

// Purge removes a file that a job made, if it is where jobs may write. An export or a device is not ours to remove.
func (m *NBDMover) Purge(_ context.Context, target string) error {
	if err := m.Allow.Check(target); err != nil {
		return err
	}
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return job.Errorf("remove target", job.IO, "", "%w", err)
	case !info.Mode().IsRegular():
		return job.Errorf("remove target", job.Conflict, "Look what it is, and remove it by hand",
			"%s is no regular file any more", target)
	}
	if err := os.Remove(target); err != nil {
		return job.Errorf("remove target", job.Permission, "Remove it by hand", "%w", err)
	}
	return nil
}

// Discard drops the checkpoints of a job.
func (m *NBDMover) Discard(_ context.Context, id job.ID) error {
	if err := os.RemoveAll(m.jobDir(id)); err != nil {
		return job.Errorf("drop checkpoints", job.IO, "", "%w", err)
	}
	return nil
}
