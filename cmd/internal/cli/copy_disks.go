package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
	"github.com/vmferry/vmferry/volumes"
)

const nullTarget = "null:"

// copyDisk is one disk of a copy.
type copyDisk struct {
	id      string // in views and in the log
	posted  string // disk id in posted progress; "" for the whole job
	alone   bool   // the only disk of this copy
	task    nbd.Task
	target  string        // name
	opener  *volumes.Lazy // of the target; it is opened, or made, when the copy asks for it
	verify  job.VerifyMode
	receipt string // path, or ""
	meter   *nbd.Meter
	ended   atomic.Pointer[copyOutcome]
}

// copyOutcome is the result of one disk.
type copyOutcome struct {
	result       nbd.Result
	verified     nbd.VerifyResult
	err          error
	began, ended time.Time
}

// outcome is nil until the disk has ended.
func (d *copyDisk) outcome() *copyOutcome { return d.ended.Load() }

// disks makes a disk of each pair of arguments.
func (o *copyOptions) disks(args []string) []*copyDisk {
	alone := len(args) == 2
	var out []*copyDisk
	for i := 0; i < len(args); i += 2 {
		d := &copyDisk{
			id: fmt.Sprintf("disk-%d", 1+i/2), alone: alone, task: o.task, verify: job.VerifyMode(o.verify),
			receipt: o.receipt, meter: &nbd.Meter{},
		}
		d.task.Source, d.target, d.task.Checkpoint = args[i], args[i+1], o.checkpoint
		d.opener = volumes.NewLazy(d.target, true, d.task.TLS)
		d.task.Target = d.opener
		d.posted = d.id
		if alone {
			d.id, d.posted = "disk", ""
		} else if o.checkpoint != "" {
			d.task.Checkpoint = filepath.Join(o.checkpoint, checkpointName(d.task.Source, d.target))
		}
		d.task.KeepCheckpoint = d.task.Checkpoint != "" && (d.verify != job.VerifyNone || o.receipt != "")
		if i/2 < len(o.diskIDs) {
			d.id, d.posted = o.diskIDs[i/2], o.diskIDs[i/2]
		}
		out = append(out, d)
	}
	return out
}

// checkpointName depends only on the pair, not on the other disks of a copy.
func checkpointName(source, target string) string {
	sum := sha256.Sum256([]byte(resolved(source) + "\n" + resolved(target)))
	return fmt.Sprintf("%x.checkpoint", sum[:8])
}

// checkDisks refuses combinations of flags and disks that cannot work.
func (o *copyOptions) checkDisks(disks []*copyDisk) error {
	switch several := len(disks) > 1; {
	case several && o.changed != "":
		return errors.New("--changed is for one disk only")
	case several && o.receipt != "":
		return errors.New("--receipt is for one disk only")
	case o.receipt != "" && o.changed != "":
		return errors.New("--receipt is for a copy of the whole disk, so not with --changed")
	case len(o.diskIDs) > 0 && len(o.diskIDs) != len(disks):
		return fmt.Errorf("--disk-id names %d disks, but %d are copied", len(o.diskIDs), len(disks))
	case several && len(slices.Compact(slices.Sorted(slices.Values(o.diskIDs)))) != len(o.diskIDs),
		several && slices.Contains(o.diskIDs, ""):
		return errors.New("--disk-id has a name twice, or an empty one")
	case several && o.checkpoint != "" && exists(o.checkpoint) && !isFolder(o.checkpoint):
		return fmt.Errorf("--checkpoint is a folder when several disks are copied, and %s is no folder", o.checkpoint)
	case o.receipt != "" && (isFolder(o.receipt) || !isFolder(filepath.Dir(o.receipt))):
		return fmt.Errorf("--receipt cannot be written: %s is a folder, or its folder does not exist", o.receipt)
	}
	if err := o.checkTargets(disks); err != nil {
		return err
	}
	for _, d := range disks {
		if err := d.task.Check(); err != nil {
			return err
		}
		if err := d.checkName(); err != nil {
			return err
		}
	}
	return nil
}

// checkName refuses an export whose server can't be verified, and a target file whose name promises another format than
// the raw one that it would get.
func (d *copyDisk) checkName() error {
	if d.target != nullTarget && nbd.IsURI(d.target) {
		return d.task.TLS.Covers(d.target)
	}
	info, err := os.Stat(d.target)
	if !d.task.OnlyRaw || nbd.IsURI(d.target) || err == nil && !info.Mode().IsRegular() {
		return nil
	}
	if format := nbd.FormatOfName(d.target); format != "" {
		return job.Errorf("", job.Invalid, "Name it .raw, and convert it afterwards with "+
			"`qemu-img convert -f raw -O "+format+"`; --format raw makes a raw file of this name",
			"the name of target %s is that of a %s image, and a copy writes a raw disk", d.target, format)
	}
	return nil
}

// checkTargets refuses a target of two disks, a target that is a source, and a verification of null:.
func (o *copyOptions) checkTargets(disks []*copyDisk) error {
	for i, d := range disks {
		source, target := d.task.Source, d.target
		if target == nullTarget && d.verify != job.VerifyNone {
			return fmt.Errorf("--verify cannot read anything back from %s", nullTarget)
		}
		for _, path := range []string{o.receipt, o.checkpoint} {
			if path != "" && (sameDevice(path, source) || sameDevice(path, target)) {
				return fmt.Errorf("%s is a disk of this copy and would be overwritten", path)
			}
		}
		for k, other := range disks {
			if k > i && sameDevice(target, other.target) {
				return fmt.Errorf("two disks have the same target: %s", nbd.Redact(target))
			}
			if sameDevice(target, other.task.Source) {
				return fmt.Errorf("%s is both source and target", nbd.Redact(target))
			}
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func isFolder(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// sameDevice says whether two names are certainly of the same disk. Two null: are not the same disk.
func sameDevice(a, b string) bool {
	if a == nullTarget || b == nullTarget {
		return false
	}
	if nbd.IsURI(a) && nbd.IsURI(b) {
		exportA, errA := nbd.CanonicalURI(a)
		exportB, errB := nbd.CanonicalURI(b)
		if errA == nil && errB == nil {
			return exportA == exportB
		}
	}
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	if errA == nil && errB == nil {
		return os.SameFile(infoA, infoB)
	}
	return resolved(a) == resolved(b)
}

// resolved is the same for all spellings of a path. URIs are not changed.
func resolved(name string) string {
	if strings.Contains(name, "://") || name == nullTarget {
		return name
	}
	path, err := filepath.Abs(name)
	if err != nil {
		return name
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}

// makeCheckpoints makes the folder for the checkpoints of several disks.
func (o *copyOptions) makeCheckpoints(disks []*copyDisk) error {
	if o.checkpoint == "" || len(disks) == 1 {
		return nil
	}
	return os.MkdirAll(o.checkpoint, 0o700)
}

// copyAll copies all disks at once, and returns when each has ended.
func copyAll(ctx context.Context, disks []*copyDisk, log *slog.Logger) {
	var all sync.WaitGroup
	for _, d := range disks {
		d.task.Log = log
		if !d.alone {
			d.task.Log = log.With("disk", d.id)
		}
		all.Go(func() { d.run(ctx) })
	}
	all.Wait()
}

// run copies, verifies and writes the receipt, and then removes the checkpoint.
func (d *copyDisk) run(ctx context.Context) {
	out := &copyOutcome{began: time.Now()}
	out.result, out.verified, out.err = d.copyAndVerify(ctx)
	out.ended = time.Now()
	if out.err == nil && d.receipt != "" {
		out.err = writeReceipt(d, out)
	}
	if d.task.KeepCheckpoint && out.result.Complete && (out.err == nil || job.KindOf(out.err) == job.Corrupt) {
		// A copy with different bytes cannot be mended from its checkpoint.
		if err := nbd.RemoveCheckpoint(d.task.Checkpoint); err != nil && out.err == nil {
			out.err = err
		}
	}
	d.ended.Store(out)
}

// copyAndVerify copies, and verifies only what was copied. Both use one open target.
func (d *copyDisk) copyAndVerify(ctx context.Context) (result nbd.Result, verified nbd.VerifyResult, err error) {
	defer func() {
		if cerr := d.opener.End(result.Threads > 0); err == nil {
			err = cerr
		}
	}()
	t := d.task
	result, err = nbd.Copy(ctx, t, d.meter)
	if err != nil || d.verify == job.VerifyNone {
		return result, verified, err
	}
	verified, err = nbd.Verify(ctx, nbd.VerifyTask{
		Source: t.Source, Target: t.Target, Extents: t.Only, Mode: d.verify, Seed: uint64(time.Now().UnixNano()),
		Digests: result.Digests, Connections: t.Connections, Requests: t.Requests, RequestSize: t.RequestSize,
		Deadline: t.Deadline, Reconnect: t.Reconnect, Engine: t.Engine, Limiters: t.Limiters, TLS: t.TLS, Log: t.Log,
	}, d.meter)
	return result, verified, err
}
