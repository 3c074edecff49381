package volumes

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Volumes holds the open targets of all jobs of a node. Its methods may be called from many goroutines, block until
// done, and fail with a job.Error.
type Volumes struct {
	allow Allow
	log   *slog.Logger

	mu   sync.Mutex
	open map[key]*held
}

// key is a disk of a job: it has one target.
type key struct {
	job  job.ID
	disk job.DiskID
}

// held is an open target. Its lock is held while it is opened, so that nothing is opened twice.
type held struct {
	mu     sync.Mutex
	volume *Volume // nil until it is open
	used   bool    // a transfer has it, so it may hold data
	gone   bool    // it was released; the next Open makes another one
}

// New makes one. allow says what may be a target; log may be nil.
func New(allow Allow, log *slog.Logger) *Volumes {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Volumes{allow: allow, log: log, open: map[key]*held{}}
}

// Check looks, by its name and without a lock, whether a target may be used and can take capacity bytes. It changes
// nothing. Errors: Permission if it is not allowed or read-only, Invalid if it is too small or no target.
func (v *Volumes) Check(ctx context.Context, target string, capacity int64) (job.TargetInfo, error) {
	if err := v.allow.Check(target); err != nil {
		return job.TargetInfo{}, err
	}
	info, err := Inspect(ctx, target)
	if err != nil {
		return job.TargetInfo{}, err
	}
	if !info.Exists {
		return job.TargetInfo{Place: filepath.Clean(target)}, canBeMade(target)
	}
	return info.target(), info.fits(target, capacity)
}

// Open opens and locks the target of a disk, and holds it until Release; what is open already is asked again. If there
// is nothing at the path, a sparse file is made where create says so; else the answer is that nothing exists. Errors
// are those of Check, and Conflict if another transfer has the target.
func (v *Volumes) Open(ctx context.Context, ref job.VolumeRef, create bool) (job.TargetInfo, error) {
	h, err := v.hold(ctx, ref)
	if err != nil {
		return job.TargetInfo{}, err
	}
	defer h.mu.Unlock()
	return v.ask(ctx, h, ref, create)
}

// ask opens the target if it is not open yet, and asks it.
func (v *Volumes) ask(ctx context.Context, h *held, ref job.VolumeRef, create bool) (job.TargetInfo, error) {
	if there, err := v.openOnce(ctx, h, ref, create); err != nil || h.volume == nil {
		return there, err
	}
	info, err := h.volume.Info(ctx)
	if err != nil {
		return job.TargetInfo{}, err
	}
	if err := info.fits(ref.Target, ref.Capacity); err != nil {
		return job.TargetInfo{}, err
	}
	out := info.target()
	out.Zero = h.allZero()
	return out, nil
}

// openOnce opens the target if it is not open yet. What does not exist and is not to be made stays closed; the answer
// says what is known of it.
func (v *Volumes) openOnce(ctx context.Context, h *held, ref job.VolumeRef, create bool) (job.TargetInfo, error) {
	if h.volume != nil {
		return job.TargetInfo{}, nil
	}
	there, err := v.Check(ctx, ref.Target, ref.Capacity)
	if err != nil || !there.Exists && !create {
		return there, err
	}
	return job.TargetInfo{}, h.open(ctx, ref, create)
}

// open opens the target, and makes it first if it is missing.
func (h *held) open(ctx context.Context, ref job.VolumeRef, create bool) (err error) {
	o := Options{}
	if create {
		o.Create, o.Size = true, ref.Capacity
		if !nbd.IsURI(ref.Target) {
			if err := os.MkdirAll(filepath.Dir(ref.Target), 0o750); err != nil {
				return job.Errorf("make target", job.Permission, "", "%w", err)
			}
		}
	}
	h.volume, err = Open(ctx, ref.Target, o)
	return err
}

// allZero says whether the target is known to hold only zeros.
func (h *held) allZero() bool {
	return h.volume.made && !h.used || h.volume.file != nil && nbd.AllHoles(h.volume.file)
}

// hold gives the entry of a disk, locked. Errors: Cancelled if ctx has ended, so that a job that has let go of its
// targets opens none any more.
func (v *Volumes) hold(ctx context.Context, ref job.VolumeRef) (*held, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, nbd.Ended(ctx, "open target", err)
		}
		h := v.entry(key{ref.Job, ref.Disk})
		h.mu.Lock()
		if !h.gone {
			return h, nil
		}
		h.mu.Unlock()
	}
}

func (v *Volumes) entry(k key) *held {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open[k] == nil {
		v.open[k] = &held{}
	}
	return v.open[k]
}

// Handle gives the open target of a disk to a transfer. After a restart of the daemon it is opened first. identity is
// what the job knows of the target; a target that is another one now is refused with Conflict. The handle is valid
// until Release.
func (v *Volumes) Handle(ctx context.Context, ref job.VolumeRef, identity string) (*nbd.Target, error) {
	h, err := v.hold(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer h.mu.Unlock()
	if h.volume != nil && h.volume.Target().Kind() == nbd.NBD {
		return h.volume.Target(), nil // a copy asks the server itself
	}
	info, err := v.ask(ctx, h, ref, false)
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Exists:
		return nil, job.Errorf("open target", job.NotFound, "Find out who removed it, then retry the job",
			"%s is not there any more", nbd.Redact(ref.Target))
	case identity != "" && info.Identity != identity:
		return nil, replaced("open target", ref)
	}
	h.used = true
	return h.volume.Target(), nil
}

func replaced(op string, ref job.VolumeRef) error {
	return job.Errorf(op, job.Conflict, "Find out who replaced it, then retry the job",
		"%s is not the target any more that this round began with", nbd.Redact(ref.Target))
}

// Confirm looks, when all is written and before the round is committed, whether the name of a target still leads to
// what was written, and whether its size is right. It gives what is so then. identity is that of the target that was
// prepared; after a restart of the daemon the target is opened again, and compared with it. Errors: Conflict if it is
// another one.
func (v *Volumes) Confirm(ctx context.Context, ref job.VolumeRef, identity string) (job.TargetInfo, error) {
	h, err := v.hold(ctx, ref)
	if err != nil {
		return job.TargetInfo{}, err
	}
	defer h.mu.Unlock()
	if _, err := v.openOnce(ctx, h, ref, false); err != nil {
		return job.TargetInfo{}, err
	}
	if h.volume == nil {
		return job.TargetInfo{}, job.Errorf("confirm target", job.Conflict,
			"Find out who removed it, then retry the job", "%s is not there any more", nbd.Redact(ref.Target))
	}
	info, err := h.volume.Confirm(ctx)
	if err == nil {
		err = info.fits(ref.Target, ref.Capacity)
	}
	if err == nil && h.volume.file != nil && identity != "" && info.Identity != identity {
		err = replaced("confirm target", ref)
	}
	return info.target(), err
}

// Release closes all targets of a job. It does not wait for the kernel: what does not close at once is closed later.
func (v *Volumes) Release(id job.ID) {
	for k, h := range v.take(func(k key) bool { return k.job == id }) {
		go v.close(k, h)
	}
}

// Close closes all targets of all jobs. It returns when they are closed, or when ctx ends: a kernel that does not let
// go of a file holds nothing else up.
func (v *Volumes) Close(ctx context.Context) {
	closed := make(chan struct{})
	var group sync.WaitGroup
	for k, h := range v.take(func(key) bool { return true }) {
		group.Go(func() { v.close(k, h) })
	}
	go func() {
		group.Wait()
		close(closed)
	}()
	select {
	case <-closed:
	case <-ctx.Done():
		v.log.Warn("not all targets could be closed in time", "err", context.Cause(ctx))
	}
}

func (v *Volumes) take(which func(key) bool) map[key]*held {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := map[key]*held{}
	for k, h := range v.open {
		if which(k) {
			out[k] = h
			delete(v.open, k)
		}
	}
	return out
}

func (v *Volumes) close(k key, h *held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = true
	if h.volume == nil {
		return
	}
	if err := h.volume.Close(); err != nil {
		v.log.Warn("a target was not closed well", "job_id", k.job, "disk", k.disk, "err", err)
	}
	h.volume = nil
}

// Purge removes a file that a job made, if it is where jobs may write. An export or a device is not ours to remove.
// Gone already is no error.
func (v *Volumes) Purge(_ context.Context, target string) error {
	if err := v.allow.Check(target); err != nil {
		return err
	}
	if nbd.IsURI(target) {
		return purgeExport(target)
	}
	return purgeFile(target)
}
