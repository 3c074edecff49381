package volumes

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// This file is about leases of holders elsewhere: they use an export, and end with its process.

// ServeRequest asks for an export of a disk's target.
type ServeRequest struct {
	Kind     job.LeaseKind // a verification gets an export that can only be read
	Node     string        // where the holder runs
	Identity string        // of the target, as the job knows it; "" for nothing
	Zero     bool          // it was all zero when the round was prepared
	TTL      time.Duration // it ends if it is not renewed for so long; 0: it lasts until Fence
}

// Served is an export of one volume for one epoch.
type Served struct {
	Volume string // of the lease
	Epoch  int64
	Socket string // a unix socket of this machine
	Export string // its name
	Zero   bool   // the target holds zeros wherever this round has not written
}

// URI is the address of the export on this machine.
func (s Served) URI() string { return "nbd+unix:///" + s.Export + "?socket=" + s.Socket }

// Serve grants the lease of a disk's target to a holder elsewhere, and serves the open target to it. The target must
// have been prepared. It is checked as Handle does. The lease that this process had for the target is over then; it
// takes another one when it uses the target again. Errors: those of Handle; Conflict if another holder has the lease,
// also if a copy of this process is under way; Unavailable while an earlier one is ending; Conflict for a target that
// is an export of another program, which can't be fenced; Missing if the program that serves is not installed.
func (v *Volumes) Serve(ctx context.Context, ref job.VolumeRef, r ServeRequest) (Served, error) {
	h, row, err := v.lend(ctx, ref)
	if err != nil {
		return Served{}, err
	}
	defer h.mu.Unlock()
	if nbd.IsURI(ref.Target) {
		return Served{}, job.CannotFence("serve volume", v.leases.node)
	}
	write := r.Kind != job.HolderVerify
	zero, err := v.attempt(ctx, h, row, ref, r.Identity, r.Zero, write)
	if err != nil {
		return Served{}, err
	}
	giveBack, err := h.volume.target.Lend(ctx) // no copy of this process meanwhile
	if err != nil {
		return Served{}, err
	}
	served, err := v.serve(ctx, h, ref, row, r)
	if err != nil {
		giveBack()
		return Served{}, err
	}
	served.Zero = zero
	g := h.grant
	go func() {
		<-g.free
		giveBack()
	}()
	return served, nil
}

// serve ends the lease of this process and grants the next one. The export is started when that is stored.
func (v *Volumes) serve(ctx context.Context, h *held, ref job.VolumeRef, row job.VolumeRecord, r ServeRequest) (
	out Served, err error,
) {
	f := h.volume.file
	file, err := fileNumber(f)
	if err != nil {
		return out, nbd.Classify("serve volume", err)
	}
	h.grant.over(ctx, job.EndReturned)
	h.grant = nil
	g, err := v.leases.take(ctx, row.LeaseID(), job.LeaseAsked{
		Holder: job.LeaseHolder{Kind: r.Kind, Node: r.Node, Job: ref.Job, Disk: ref.Disk}, Served: true, File: file,
	})
	if err != nil {
		return out, err
	}
	h.grant = g
	epoch := g.now().Epoch
	out = Served{
		Volume: g.volume, Epoch: epoch, Export: fmt.Sprintf("%s@%d", g.volume, epoch),
		Socket: filepath.Join(v.runDir, fmt.Sprintf("e%d", epoch)),
	}
	e, err := startExport(ctx, f, exportConfig{
		name: out.Export, tag: v.leases.node + "/" + out.Export, socket: out.Socket, kind: h.volume.target.Kind(),
		file: file, write: r.Kind != job.HolderVerify, orphans: v.orphans, throttle: v.throttle,
	})
	if e != nil {
		g.serves(ctx, e, r.TTL)
	}
	if err == nil {
		err = g.apply(ctx, job.LeaseServed{Epoch: epoch, Server: e.LeaseServer})
	}
	if err == nil {
		return out, nil
	}
	if e == nil { // nothing was started
		g.over(ctx, job.EndFailed)
		return Served{}, err
	}
	if bad := g.fence(ctx, job.EndFailed); bad != nil {
		v.log.Warn("an export that failed does not end", "volume", g.volume, "epoch", epoch, "err", bad)
	}
	return Served{}, err
}

// fileNumber names an open file or device for LeaseServer.
func fileNumber(f *os.File) (string, error) {
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	return numberOf(info), nil
}

// serves notes the process of an export. When it ends, for whatever reason, so does the lease.
func (g *grant) serves(ctx context.Context, e *export, ttl time.Duration) {
	l, epoch := g.leases, g.now().Epoch
	ctx = context.WithoutCancel(ctx)
	l.mu.Lock()
	g.export, g.ttl = e, ttl
	if ttl > 0 {
		g.expiry = time.AfterFunc(ttl, func() { g.expired(ctx) })
	}
	l.mu.Unlock()
	go func() {
		<-e.done
		e.kill() // removes its socket
		l.mu.Lock()
		if g.expiry != nil {
			g.expiry.Stop()
		}
		l.mu.Unlock()
		g.over(ctx, job.EndFailed) // unless another reason was stored before
		l.log.Info("an export has ended", "volume", g.volume, "epoch", epoch, "how", e.cmd.ProcessState.String(),
			"said", e.words.String())
	}()
}

// expired ends a lease that was not renewed.
func (g *grant) expired(ctx context.Context) {
	if err := g.fence(ctx, job.EndExpired); err != nil {
		g.leases.log.Warn("a lease that was not renewed does not end", "volume", g.volume, "err", err)
	}
}

// fence ends the lease of an export: it stores that, kills the process, and waits for its end. It returns nil when
// nothing of the epoch can write any more. Errors: Unavailable if that takes longer than 5 s, as with a storage that
// does not answer; it goes on then, and g.free tells when it is done. It runs also after ctx has ended.
func (g *grant) fence(ctx context.Context, why job.LeaseEnd) error {
	ctx = context.WithoutCancel(ctx)
	storing, cancel := context.WithTimeout(ctx, undoTime)
	defer cancel()
	epoch := g.now().Epoch
	// The process is killed also if that can't be stored: a start finds the lease, and ends it.
	err := g.apply(storing, job.LeaseEnded{Epoch: epoch, Why: why})
	g.leases.mu.Lock()
	e := g.export
	g.leases.mu.Unlock()
	if e != nil {
		e.kill()
	}
	late := time.NewTimer(fenceTime)
	defer late.Stop()
	select {
	case <-g.free:
		return nil
	case <-late.C:
	}
	g.heldUp(ctx, why, silentStorage)
	if _, _, held := g.now().Apply(job.LeaseAsked{Epoch: epoch + 1}, g.leases.now()); held != nil {
		return held
	}
	return err
}

// of is the grant of that epoch. Errors: Fenced if it is over, Invalid if it never was.
func (l *leases) of(ctx context.Context, volume string, epoch int64) (*grant, error) {
	if g := l.find(volume); g != nil && g.now().Epoch == epoch {
		return g, nil
	}
	row, err := l.rows.Lease(ctx, volume)
	if err != nil {
		return nil, err
	}
	if _, _, err = row.Apply(job.LeaseUsed{Epoch: epoch}, l.now()); err == nil { // of a process before this one
		err = job.Errorf("use lease", job.Fenced, "", "fenced: epoch %d was granted before a restart", epoch)
	}
	return nil, err
}

// Renew says that the holder of an epoch was heard just now: its lease lasts for its TTL from now on, by the clock that
// never jumps. A holder must count from before it sent what Renew follows from, and stop earlier. Errors: Fenced if the
// epoch is over.
func (v *Volumes) Renew(ctx context.Context, volume string, epoch int64) error {
	g, err := v.leases.of(ctx, volume, epoch)
	if err != nil {
		return err
	}
	l := g.now()
	if _, _, err := l.Apply(job.LeaseUsed{Epoch: epoch, Kind: l.Holder.Kind}, v.now()); err != nil {
		return err
	}
	v.leases.mu.Lock()
	defer v.leases.mu.Unlock()
	if g.expiry != nil && !g.expiry.Stop() { // it has run out just now, and cannot be taken back
		return job.Errorf("renew lease", job.Fenced, "", "fenced: epoch %d was not renewed in time", epoch)
	}
	if g.expiry != nil {
		g.expiry.Reset(g.ttl)
	}
	return nil
}

// Checkpoint stores the number of the newest checkpoint that the holder of an epoch has recorded. Errors: Fenced if the
// epoch is over, Invalid for a number that goes back.
func (v *Volumes) Checkpoint(ctx context.Context, volume string, epoch, number int64) error {
	g, err := v.leases.of(ctx, volume, epoch)
	if err != nil {
		return err
	}
	return g.apply(ctx, job.LeaseCheckpointed{Epoch: epoch, Number: number})
}

// Fence ends the lease of an epoch that is served. When it returns nil, nothing of the epoch can write to the volume
// any more. Also an epoch that is over is no error. Errors: Unavailable, with the words "ending: the storage does not
// answer", if that takes longer than 5 s; it goes on then, and no other holder gets the lease before it is done.
func (v *Volumes) Fence(ctx context.Context, volume string, epoch int64, why job.LeaseEnd) error {
	g, err := v.leases.of(ctx, volume, epoch)
	switch {
	case job.KindOf(err) == job.Fenced:
		return v.leases.endEpoch(ctx, volume, epoch)
	case err != nil:
		return err
	case !g.now().Served:
		return job.Errorf("end lease", job.Conflict, "Cancel the job that has the volume",
			"the lease of epoch %d is one of this process", epoch)
	}
	return g.fence(ctx, why)
}

// endEpoch ends a stored lease of that epoch that is not this process's: its end could not be stored at the start, as
// with a full disk, and its export may still stand.
func (l *leases) endEpoch(ctx context.Context, volume string, epoch int64) error {
	row, err := l.rows.Lease(ctx, volume)
	if err != nil || row.Epoch != epoch || row.Free() {
		return err
	}
	return l.endStored(ctx, volume)
}

// Leases lists all leases that were ever granted, as they are stored.
func (v *Volumes) Leases(ctx context.Context) ([]job.Lease, error) { return v.leases.rows.Leases(ctx) }
