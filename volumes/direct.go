package volumes

import (
	"context"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// This file is about leases of this process: they guard an open file, and end when that is closed.

// fenceTime is how long the end of a lease may take before it is said that the storage does not answer.
const fenceTime = 5 * time.Second

// lease gives the entry of a disk a lease of this process, if it has none. The entry is locked. Errors: those of take,
// and Conflict while an export of the volume stands.
func (v *Volumes) lease(ctx context.Context, h *held, ref job.VolumeRef, row job.VolumeRecord) error {
	if h.grant != nil && !h.grant.isFree() {
		l := h.grant.now()
		if !l.Served && l.State == job.LeaseOpen {
			return nil
		}
		_, _, err := l.Apply(job.LeaseAsked{Epoch: l.Epoch + 1}, v.now())
		return err
	}
	g, err := v.leases.take(ctx, row.LeaseID(), job.LeaseAsked{
		Holder:  job.LeaseHolder{Kind: job.HolderTransfer, Node: v.leases.node, Job: ref.Job, Disk: ref.Disk},
		Foreign: nbd.IsURI(ref.Target),
	})
	if err != nil {
		return err
	}
	h.grant = g
	return nil
}

// unopened gives the lease back of a target that could not be opened. The entry is locked.
func (h *held) unopened(ctx context.Context) {
	if h.volume == nil && h.grant != nil {
		h.grant.over(ctx, job.EndFailed)
		h.grant = nil
	}
}

// usedFor notes what the holder does with the volume from now on. The entry is locked and has a lease.
func (h *held) usedFor(ctx context.Context, kind job.LeaseKind) error {
	return h.grant.apply(ctx, job.LeaseUsed{Epoch: h.grant.now().Epoch, Kind: kind})
}

// close closes a target and gives its lease back. It returns when nothing of this process can write to the target any
// more, however long that takes.
func (v *Volumes) close(ctx context.Context, k key, h *held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone = true
	g := h.grant
	if g != nil && !g.isFree() && g.now().Served { // its process has the locks of the file, too: they go last
		if err := g.fence(ctx, job.EndRevoked); err != nil {
			<-g.free
		}
	}
	if h.volume != nil {
		if err := h.volume.Close(); err != nil {
			v.log.Warn("a target was not closed well", "job_id", k.job, "disk", k.disk, "err", err)
		}
		v.awaitClosed(ctx, g, h.volume)
		h.volume = nil
	}
	if g != nil && !g.isFree() {
		g.over(ctx, job.EndReturned)
	}
}

// awaitClosed waits until the kernel has let go of a file.
func (v *Volumes) awaitClosed(ctx context.Context, g *grant, volume *Volume) {
	if volume.closed == nil {
		return
	}
	late := time.NewTimer(fenceTime)
	defer late.Stop()
	select {
	case <-volume.closed:
		return
	case <-late.C:
	}
	if g != nil && !g.isFree() {
		g.heldUp(ctx, job.EndReturned, silentStorage)
	}
	<-volume.closed
}
