package volumes

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// This file is what an attempt at a disk, and the commit after the last one, ask of a target.

// Handle gives the open target of a disk to an attempt. After a restart of the daemon it is opened first. identity is
// what the job knows of the target. zero is what was true of it when the round was prepared. The open target is asked
// for its identity, its size and its stamp; write says that the attempt writes, which is stored before Handle returns.
// The handle is valid until Release. Errors: NotFound for a target that is gone, Conflict for another target than the
// job knows, and for one that was written by others since the last attempt.
func (v *Volumes) Handle(ctx context.Context, ref job.VolumeRef, identity string, zero, write bool) (
	target *nbd.Target, stillZero bool, err error,
) {
	h, row, err := v.lend(ctx, ref)
	if err != nil {
		return nil, false, err
	}
	defer h.mu.Unlock()
	stillZero, err = v.attempt(ctx, h, row, ref, identity, zero, write)
	if err != nil {
		return nil, false, err
	}
	kind := job.HolderVerify
	if write {
		kind = job.HolderTransfer
	}
	return h.volume.Target(), stillZero, h.usedFor(ctx, kind)
}

// attempt checks an open target before an attempt at it, and stores that the attempt writes. The entry is locked.
func (v *Volumes) attempt(ctx context.Context, h *held, row job.VolumeRecord, ref job.VolumeRef, identity string,
	zero, write bool,
) (stillZero bool, err error) {
	const op = "open target"
	if h.volume != nil && h.volume.Target().Kind() == nbd.NBD { // a copy asks the server itself
		if err := v.lease(ctx, h, ref, row); err != nil {
			return false, err
		}
		h.used = h.used || write
		return false, v.begin(ctx, row, ref, write)
	}
	info, err := v.ask(ctx, h, ref, row)
	if err != nil {
		return false, err
	}
	if !info.Exists {
		return false, job.Errorf(op, job.NotFound, "Find out who removed it, then retry the job",
			"%s is not there any more", nbd.Redact(ref.Target))
	}
	if err := stillThat(op, ref, row, info, identity); err != nil {
		return false, err
	}
	if !row.Writing && compareStamps(row.Stamp, info.Stamp) == changed {
		return false, written(op, ref)
	}
	stillZero = zero && (h.allZero() || !row.Writing && row.Stamp != "")
	if !write {
		if row, err = v.firstStamp(ctx, h, row); err != nil {
			return false, err
		}
	}
	h.used = h.used || write
	return stillZero, v.begin(ctx, row, ref, write)
}

// begin stores that a writer of ours is at work, and what it writes.
func (v *Volumes) begin(ctx context.Context, row job.VolumeRecord, ref job.VolumeRef, write bool) error {
	if !write || row.Writing && row.ChangeID == ref.ChangeID {
		return nil
	}
	row.Writing, row.ChangeID = true, ref.ChangeID
	return v.ledger.ChangeVolumes(ctx, []job.VolumeRecord{row}, nil)
}

const settleTime = 20 * time.Second // for the kernel to write what it has, and for the journal

// Settle is called when an attempt that wrote has ended, however it ended, and nothing of it writes any more. It makes
// what was written durable and stores the target's stamp: from then on a write of others shows. It runs also after ctx
// has ended, for at most 20 s. If it fails, the next round copies the disk in full.
func (v *Volumes) Settle(ctx context.Context, ref job.VolumeRef) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	h, row, err := v.lend(ctx, ref)
	if err != nil {
		return err
	}
	defer h.mu.Unlock()
	if h.volume == nil {
		return nil // it was released: nothing was written, or the row stays as it is
	}
	if g := h.grant; g != nil && !g.isFree() && g.now().Served {
		return job.Errorf("settle target", job.Conflict, "Wait until it is done, or cancel it", "%s still writes to it",
			g.now().Holder)
	}
	row.Stamp = ""
	if h.volume.file != nil {
		if row.Stamp, err = h.volume.settled(ctx); err != nil {
			return nbd.Classify("settle target "+ref.Target, err)
		}
	}
	row.Writing = false
	return v.ledger.ChangeVolumes(ctx, []job.VolumeRecord{row}, nil)
}

// stillThat refuses an open target that is not the one that the job and its row know, or that is too small by now.
// identity is what the job knows; "" for nothing.
func stillThat(op string, ref job.VolumeRef, row job.VolumeRecord, info Info, identity string) error {
	for _, known := range []string{identity, row.Identity} {
		if known != "" && !info.is(known, ref.Target) {
			return job.Errorf(op, job.Conflict, "Find out who replaced it, then retry the job",
				"%s is not the target any more that this round began with", nbd.Redact(ref.Target))
		}
	}
	if info.Size < ref.Capacity {
		return info.fits(ref.Target, ref.Capacity, false)
	}
	return nil
}

func written(op string, ref job.VolumeRef) error {
	return job.Errorf(op, job.Conflict,
		"Find out who writes to it, then retry the job: it copies the disk in full",
		"another process has written to %s, or changed its attributes, since this job wrote to it last",
		nbd.Redact(ref.Target))
}

// Confirm looks, when all is written and verified and before the round is committed, whether the name of a target still
// leads to what was written, whether its size is right, and whether no other has written to it since the copy ended.
// identity is that of the target that was prepared; after a restart of the daemon the target is opened again, and
// compared with it. Errors: Conflict if it is another one, or was written; Invalid if it is too small now.
func (v *Volumes) Confirm(ctx context.Context, ref job.VolumeRef, identity string) (job.TargetInfo, error) {
	const op = "confirm target"
	h, row, err := v.lend(ctx, ref)
	if err != nil {
		return job.TargetInfo{}, err
	}
	defer h.mu.Unlock()
	info, err := v.ask(ctx, h, ref, row)
	if err != nil {
		return job.TargetInfo{}, err
	}
	if !info.Exists {
		return job.TargetInfo{}, job.Errorf(op, job.Conflict, "Find out who removed it, then retry the job",
			"%s is not there any more", nbd.Redact(ref.Target))
	}
	if err := h.volume.Confirm(); err != nil {
		return job.TargetInfo{}, err
	}
	if h.volume.file != nil {
		if info.Stamp, err = h.volume.settled(ctx); err != nil {
			return job.TargetInfo{}, nbd.Classify(op, err)
		}
	}
	if err := stillThat(op, ref, row, info, identity); err != nil {
		return job.TargetInfo{}, err
	}
	switch {
	case row.Writing && row.Stamp != "": // without a stamp: firstStamp
		return job.TargetInfo{}, job.Errorf(op, job.Conflict, "Retry the job",
			"what was written last to %s is not known to be ours", nbd.Redact(ref.Target))
	case compareStamps(row.Stamp, info.Stamp) == changed:
		return job.TargetInfo{}, written(op, ref)
	}
	if row, err = v.firstStamp(ctx, h, row); err != nil {
		return job.TargetInfo{}, err
	}
	return job.TargetInfo{Exists: true, Identity: info.Identity, Stamp: row.Stamp, Volume: row.ID}, nil
}

// firstStamp stamps what an earlier version, which stored no stamp before its commit, wrote before it was killed. It is
// called when nothing of the round writes any more: before the verification, and at the commit. A row that has a stamp,
// and a target that has none, stay as they are.
func (v *Volumes) firstStamp(ctx context.Context, h *held, row job.VolumeRecord) (job.VolumeRecord, error) {
	if row.Stamp != "" || h.volume.file == nil {
		return row, nil
	}
	stamp, err := h.volume.settled(ctx)
	if err != nil || stamp == "" {
		return row, nbd.Classify("stamp target "+row.Target, err)
	}
	row.Stamp, row.Writing = stamp, false
	return row, v.ledger.ChangeVolumes(ctx, []job.VolumeRecord{row}, nil)
}

// Purge removes the file that a job made as the target of a disk, if it is still that file, and drops it from the
// ledger. It is no error if there is none. Errors: Conflict for what the job did not make.
func (v *Volumes) Purge(ctx context.Context, ref job.VolumeRef) error {
	const op = "remove target"
	row, found, err := v.find(ctx, ref)
	if err != nil {
		return err
	}
	if !found || row.MadeBy != ref.Job || nbd.IsURI(ref.Target) {
		return nil // it was purged before, or was there before the job
	}
	where, err := v.allow.locate(ref.Target)
	if err != nil {
		return err
	}
	info, err := inspectLocal(where)
	if err != nil {
		return nbd.Classify(op, err)
	}
	if info.Exists {
		if err := v.removeFile(ctx, where, ref, row); err != nil {
			return err
		}
	}
	return v.ledger.ChangeVolumes(ctx, nil, []string{row.ID})
}

// removeFile opens and locks the file, and removes its name while it is held.
func (v *Volumes) removeFile(ctx context.Context, where spot, ref job.VolumeRef, row job.VolumeRecord) error {
	const op, next = "remove target", "Look what it is, and remove it by hand"
	volume, err := v.allow.open(ctx, ref.Target)
	if err != nil {
		return nbd.Classify(op, err)
	}
	info, err := volume.Info(ctx)
	link, lerr := os.Lstat(ref.Target)
	switch {
	case err != nil || lerr != nil:
		err = errors.Join(err, lerr)
	case info.Kind != nbd.File || !link.Mode().IsRegular():
		err = job.Errorf(op, job.Conflict, next, "%s is no regular file any more", ref.Target)
	case row.Identity == "" || !info.is(row.Identity, ref.Target):
		err = job.Errorf(op, job.Conflict, next, "%s is not the file that job %s made", ref.Target, ref.Job)
	default:
		if err = volume.Confirm(); err == nil {
			err = where.remove()
		}
	}
	return nbd.Classify(op, errors.Join(err, volume.Close()))
}
