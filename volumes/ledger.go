package volumes

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Ledger keeps who owns which volume. Each method returns when its change is durable, may be called from many
// goroutines, and fails with a job.Error.
type Ledger interface {
	// Volumes are all rows, the oldest claim first.
	Volumes(ctx context.Context) ([]job.VolumeRecord, error)
	// VolumesOf are the rows of a job.
	VolumesOf(ctx context.Context, id job.ID) ([]job.VolumeRecord, error)
	// ChangeVolumes stores rows by their id and drops others, all or none.
	ChangeVolumes(ctx context.Context, save []job.VolumeRecord, drop []string) error
	LeaseRows
}

// idle says whether a row is not needed: nothing was ever written, and its job has ended.
func idle(r job.VolumeRecord) bool { return r.Generation == 0 && !r.JobActive }

func newRow(c job.VolumeClaim, now time.Time) job.VolumeRecord {
	return job.VolumeRecord{
		ID: rand.Text(), Target: c.Target, Owner: c.Owner, Job: c.Job, Size: c.Capacity, ClaimedAt: now,
	}
}

// Known are the targets that the disks of a VM had last, by disk.
func (v *Volumes) Known(ctx context.Context, owner job.VolumeOwner) (map[job.DiskID]string, error) {
	rows, err := v.ledger.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	out := map[job.DiskID]string{}
	for _, r := range rows {
		of := owner
		of.Disk = r.Owner.Disk
		if r.Owner.Same(of) && r.ReleasedAt.IsZero() && !idle(r) {
			out[r.Owner.Disk] = r.Target
		}
	}
	return out, nil
}

// All lists the rows that say something: volumes that were written, and those that an unfinished job has claimed.
func (v *Volumes) All(ctx context.Context) ([]job.VolumeRecord, error) {
	rows, err := v.ledger.Volumes(ctx)
	return slices.DeleteFunc(rows, idle), err
}

// Free releases a volume by the id of its row: after that any job may have it, and copies it in full. Errors: NotFound,
// and Conflict if a job that has not ended uses it.
func (v *Volumes) Free(ctx context.Context, id string) error {
	const op = "release volume"
	v.claims.Lock()
	defer v.claims.Unlock()
	rows, err := v.ledger.Volumes(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(rows, func(r job.VolumeRecord) bool { return r.ID == id })
	switch {
	case i < 0:
		return job.Errorf(op, job.NotFound, "Take an id that vmferry volumes lists", "there is no volume %s", id)
	case rows[i].JobActive:
		return job.Errorf(op, job.Conflict, fmt.Sprintf("Wait for job %s to end, or cancel it", rows[i].Job),
			"job %s uses %s", rows[i].Job, nbd.Redact(rows[i].Target))
	case !rows[i].ReleasedAt.IsZero():
		return nil
	}
	rows[i].ReleasedAt = v.now()
	return v.ledger.ChangeVolumes(ctx, rows[i:i+1], nil)
}

// Claim reserves the targets of a job, all or none, and says what they are now. A target that belongs to another VM or
// disk, to another job that has not ended, or that holds data of others is refused with Conflict, which names the VM,
// the job and the way out. Other errors are those of Check. The VM may be unknown yet: then only what is certain is
// refused. Nothing is made and nothing is written to a target.
//
// accept, if it is not nil, is called when the claims are durable, before another job can claim; if it fails, the
// claims are dropped.
func (v *Volumes) Claim(ctx context.Context, claims []job.VolumeClaim, accept func(context.Context) error) (
	[]job.TargetInfo, error,
) {
	seen, err := v.survey(ctx, claims) // before the lock: a server or a file system that hangs holds up this job only
	if err != nil {
		return nil, err
	}
	v.claims.Lock()
	defer v.claims.Unlock()
	rows, err := v.ledger.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	if accept != nil && slices.ContainsFunc(claims, func(c job.VolumeClaim) bool { return runs(rows, c.Job) }) {
		return nil, accept(ctx) // there is a job of that id, which is changing its rows now
	}
	change := changes{rows: rows, places: seen.places, now: v.now()}
	out := make([]job.TargetInfo, 0, len(claims))
	for i, c := range claims {
		row, err := v.claim(ctx, &change, c, seen.targets[i])
		if err != nil {
			return nil, fmt.Errorf("target of %s: %w", c.Disk, err)
		}
		info := seen.targets[i].Info
		out = append(out, job.TargetInfo{
			Exists: info.Exists, Identity: info.Identity, Stamp: info.Stamp, Volume: row.ID, Note: row.note,
			Renewed: row.Renewed,
		})
	}
	if err := v.ledger.ChangeVolumes(ctx, change.save, change.drop); err != nil || accept == nil {
		return out, err
	}
	if err := accept(ctx); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		before, made := change.undo(rows)
		return nil, errors.Join(err, v.ledger.ChangeVolumes(ctx, before, made))
	}
	return out, nil
}

// survey is what was seen of targets, and of the places of all volumes.
type survey struct {
	targets []looked // of the claims
	places  places
}

// looked is a target as it was found by its name.
type looked struct {
	Info
	holds string // data, in words; "" for none, or if it was not looked for
	asked bool   // holds is known
}

// places are the places of targets by name.
type places map[string]place

func (p places) of(target string) (place, error) {
	if here, ok := p[target]; ok {
		return here, nil
	}
	return placeOf(target)
}

// add looks where a target lies. A place that can't be looked at is left out.
func (p places) add(target string) {
	if here, err := placeOf(target); err == nil {
		p[target] = here
	}
}

// survey looks at the targets of claims, and at the places of all volumes.
func (v *Volumes) survey(ctx context.Context, claims []job.VolumeClaim) (survey, error) {
	rows, err := v.ledger.Volumes(ctx)
	if err != nil {
		return survey{}, err
	}
	out := survey{places: placesOf(rows)}
	for _, c := range claims {
		out.places.add(c.Target)
		var l looked
		unasked := c.Owner.VM == "" && nbd.IsURI(c.Target)
		if l.Info, err = v.look(ctx, rows, c, unasked); err != nil {
			return out, fmt.Errorf("target of %s: %w", c.Disk, err)
		}
		known := slices.ContainsFunc(rows, func(r job.VolumeRecord) bool {
			return l.is(r.Identity, c.Target)
		})
		if l.Exists && !known && !unasked {
			l.asked = true
			if l.holds, err = v.holds(ctx, c.Target, l.Info); err != nil {
				return out, fmt.Errorf("target of %s: %w", c.Disk, err)
			}
		}
		out.targets = append(out.targets, l)
	}
	return out, nil
}

func placesOf(rows []job.VolumeRecord) places {
	out := places{}
	for _, r := range rows {
		out.add(r.Target)
	}
	return out
}

// runs says whether a job that has not ended has a row.
func runs(rows []job.VolumeRecord, id job.ID) bool {
	return slices.ContainsFunc(rows, func(r job.VolumeRecord) bool { return r.Job == id && r.JobActive })
}

const undoTime = 10 * time.Second

// changes are the rows that a claim is compared with, and what it changes.
type changes struct {
	rows   []job.VolumeRecord
	places places // of the rows, as far as they are known
	save   []job.VolumeRecord
	drop   []string
	now    time.Time
}

// put replaces the rows of these ids by one.
func (c *changes) put(r job.VolumeRecord, instead []string) {
	gone := func(o job.VolumeRecord) bool { return o.ID == r.ID || slices.Contains(instead, o.ID) }
	c.rows = append(slices.DeleteFunc(slices.Clone(c.rows), gone), r)
	c.save = append(slices.DeleteFunc(c.save, gone), r)
	for _, id := range instead {
		if id != r.ID {
			c.drop = append(c.drop, id)
		}
	}
}

// undo gives the rows as they were, and the ids of those that are new.
func (c *changes) undo(rows []job.VolumeRecord) (before []job.VolumeRecord, made []string) {
	for _, r := range rows {
		if slices.Contains(c.drop, r.ID) ||
			slices.ContainsFunc(c.save, func(o job.VolumeRecord) bool { return o.ID == r.ID }) {
			before = append(before, r)
		}
	}
	for _, r := range c.save {
		if !slices.ContainsFunc(rows, func(o job.VolumeRecord) bool { return o.ID == r.ID }) {
			made = append(made, r.ID)
		}
	}
	return before, made
}

// claimed is a row that a job may use.
type claimed struct {
	job.VolumeRecord
	note string // for people
}

// claim finds or makes the row of a claim. info is what its target is now.
func (v *Volumes) claim(ctx context.Context, ch *changes, c job.VolumeClaim, info looked) (claimed, error) {
	rivals, err := rivals(ch.rows, ch.places, c.Target, info.Info)
	if err != nil {
		return claimed{}, err
	}
	var found settlement
	for _, r := range rivals {
		if err := found.settle(r, c); err != nil {
			return claimed{}, err
		}
	}
	row := newRow(c, ch.now)
	if found.mine != nil {
		row = *found.mine
		row.Job, row.Target, row.ClaimedAt = c.Job, c.Target, ch.now
		if row.Generation == 0 {
			row.Size = c.Capacity // else that of the disk that was written last
		}
		if c.Owner.VM != "" {
			row.Owner = c.Owner
		}
	}
	if found.mine == nil && !others(ch.rows, rivals, found.lease) {
		row.Lease = found.lease
	}
	row.Renewed = row.Renewed || found.renewed
	out, err := v.compared(ctx, c, info, claimed{row, found.note}, found.known)
	if err != nil {
		return claimed{}, err
	}
	ch.put(out.VolumeRecord, found.instead)
	return out, nil
}

// others says whether a row that is none of these has the lease: that of a disk can't be that of two partitions of it.
func others(rows, these []job.VolumeRecord, lease string) bool {
	return slices.ContainsFunc(rows, func(r job.VolumeRecord) bool {
		return r.LeaseID() == lease &&
			!slices.ContainsFunc(these, func(o job.VolumeRecord) bool { return o.ID == r.ID })
	})
}

// compared compares a row with what its target is now. known says that a row that is not needed any more knew the
// target.
func (v *Volumes) compared(ctx context.Context, c job.VolumeClaim, info looked, row claimed, known bool) (
	claimed, error,
) {
	was := parseIdentity(row.Identity)
	anew := row.Generation == 0 && !info.is(row.Identity, c.Target)
	if anew || row.Generation > 0 && was.another(info.id) {
		more, err := v.fresh(ctx, c, info, row.ID, anew && known)
		if err != nil {
			return claimed{}, err
		}
		row.note = cmp.Or(row.note, more)
	}
	if anew {
		row.Identity, row.AdoptedAt = info.Identity, time.Time{}
	}
	if row.note != "" {
		row.AdoptedAt, row.Renewed = row.ClaimedAt, true
	}
	if row.note == "" && row.Generation == 0 && !row.AdoptedAt.IsZero() {
		row.note = nbd.Redact(c.Target) + " was taken over"
	}
	return row, nil
}

// settlement is what becomes of the rows that know the target of a claim already.
type settlement struct {
	mine    *job.VolumeRecord // the row that the claim takes over; nil for none
	instead []string          // rows that the claim's row replaces
	known   bool              // the data on the target is that of a row
	renewed bool              // it gets another owner
	lease   string            // of a row that knew the volume, whatever becomes of it; "" for none
	note    string            // for people; "" for nothing
}

// settle decides what becomes of one row. Errors: Conflict for the volume of another, Invalid for another disk's.
func (s *settlement) settle(r job.VolumeRecord, c job.VolumeClaim) error {
	s.lease = r.LeaseID()
	own := r.Job == c.Job && c.Job != "" // a row of a deleted job has none, and neither has a check
	switch released := !r.ReleasedAt.IsZero(); {
	case released && (own || !r.JobActive):
		s.instead, s.known, s.renewed = append(s.instead, r.ID), true, true
	case own && r.Owner.Disk == c.Disk, r.Owner.Same(c.Owner) && !r.JobActive:
		if s.mine == nil || s.mine.Generation < r.Generation {
			s.mine = &r
		}
		s.instead = append(s.instead, r.ID)
	case own:
		return job.Errorf("check targets", job.Invalid, "Give each disk a target of its own",
			"%s and %s have the same target", r.Owner.Disk, c.Disk)
	case r.JobActive:
		return taken(r, c, fmt.Sprintf("Wait for job %s to end or cancel it, or name another target", r.Job))
	case idle(r):
		s.instead = append(s.instead, r.ID)
	case c.Owner.VM == "":
		s.known = true // whether it is another VM's shows when the VM is known
	case !c.Adopt:
		return taken(r, c, "Name another target, or take it over with --adopt: its data is overwritten")
	default:
		s.note = fmt.Sprintf("%s was taken over from %s", nbd.Redact(c.Target), r.Owner)
		s.instead, s.known, s.renewed = append(s.instead, r.ID), true, true
	}
	return nil
}

func taken(r job.VolumeRecord, c job.VolumeClaim, next string) error {
	return job.Errorf("claim target", job.Conflict, next, "%s belongs to %s (job %s)", nbd.Redact(c.Target), r.Owner,
		r.Job)
}

// fresh refuses a target that no row knows and that holds something. id is of the row that it gets: a daemon that was
// killed may have marked it and not stored that. known says that a row that is not needed any more knew it. The note
// says what was taken over.
func (v *Volumes) fresh(ctx context.Context, c job.VolumeClaim, info looked, id string, known bool) (
	note string, err error,
) {
	if !info.Exists || known {
		return "", nil
	}
	what := ""
	if info.Marked && info.id.mark != id {
		what = "carries the mark of another vmferry, or of a job that this one does not know"
	} else if c.Owner.VM != "" || info.Kind != nbd.NBD { // an export is asked at preflight
		if what = info.holds; !info.asked {
			if what, err = v.holds(ctx, c.Target, info.Info); err != nil {
				return "", err
			}
		}
	}
	switch {
	case what == "":
		return "", nil
	case !c.Adopt:
		return "", job.Errorf("claim target", job.Conflict,
			"Name another target, empty this one, or take it over with --adopt: its data is overwritten", "%s %s",
			nbd.Redact(c.Target), what)
	}
	return fmt.Sprintf("%s was taken over: it %s", nbd.Redact(c.Target), what), nil
}

// rivals are the rows whose volume is the target, by any name: the same identity, or a common place.
func rivals(rows []job.VolumeRecord, known places, target string, info Info) ([]job.VolumeRecord, error) {
	here, err := known.of(target)
	if err != nil {
		return nil, nbd.Classify("look at target "+nbd.Redact(target), err)
	}
	var out []job.VolumeRecord
	for _, r := range rows {
		if info.Exists && r.Identity != "" && info.is(r.Identity, target) || r.Target == target {
			out = append(out, r)
			continue
		}
		if nbd.IsURI(r.Target) != nbd.IsURI(target) {
			continue
		}
		if there, err := known.of(r.Target); err == nil && there.overlaps(here) {
			out = append(out, r) // a place that can't be looked at now is known by its identity
		}
	}
	return out, nil
}
