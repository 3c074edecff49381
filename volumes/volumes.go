package volumes

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/vmferry/vmferry/job"
	"github.com/vmferry/vmferry/nbd"
)

// Volumes holds the open targets of all jobs of a node, and knows by the ledger whose they are. Its methods may be
// called from many goroutines, block until done, and fail with a job.Error.
type Volumes struct {
	allow  Allow
	ledger Ledger
	log    *slog.Logger
	now    func() time.Time

	claims sync.Mutex // held while claims are compared with the ledger and stored

	leases  *leases
	runDir  string // sockets of exports
	closing sync.WaitGroup

	orphans  bool  // exports survive this process; for tests
	throttle int64 // bytes per second that an export writes; for tests

	mu   sync.Mutex
	open map[key]*held
}

// Option changes how New makes Volumes.
type Option func(*Volumes)

// WithNode names this node in leases, and in what its exports are known by.
func WithNode(id string) Option { return func(v *Volumes) { v.leases.node = id } }

// WithRunDir names the folder of the sockets of exports. It exists, belongs to this node alone, and has a short path:
// the path of a socket has at most 107 bytes.
func WithRunDir(dir string) Option { return func(v *Volumes) { v.runDir = dir } }

// key is a disk of a job: it has one target.
type key struct {
	job  job.ID
	disk job.DiskID
}

// held is an open target. Its lock is held while it is opened or asked, so that nothing is opened twice.
type held struct {
	mu     sync.Mutex
	volume *Volume // nil until it is open
	grant  *grant  // its lease; nil or free while nothing is open
	end    func()  // closes it and gives the lease back
	why    string  // what Open found foreign about it, by which the round goes full; "" for nothing
	used   bool    // a transfer has it, so it may hold data
	gone   bool    // it was released; the next Open makes another one
}

// New makes one. allow says what may be a target; log may be nil.
func New(allow Allow, ledger Ledger, log *slog.Logger, options ...Option) *Volumes {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	v := &Volumes{allow: allow, ledger: ledger, log: log, now: time.Now, open: map[key]*held{}}
	v.leases = newLeases(ledger, log)
	for _, o := range options {
		o(v)
	}
	return v
}

// Check looks, by its name and without a lock, whether a job may use a target and whether it can take the disk. It
// changes nothing, also not in the ledger. Errors: Permission if it is not allowed or read-only, Invalid if it is too
// small or no target, Conflict as in Claim.
func (v *Volumes) Check(ctx context.Context, c job.VolumeClaim) (job.TargetInfo, error) {
	seen, err := v.survey(ctx, []job.VolumeClaim{c})
	if err != nil {
		return job.TargetInfo{}, err
	}
	rows, err := v.ledger.Volumes(ctx)
	if err != nil {
		return job.TargetInfo{}, err
	}
	info := seen.targets[0].Info
	row, err := v.claim(ctx, &changes{rows: rows, places: seen.places, now: v.now()}, c, seen.targets[0])
	out := job.TargetInfo{
		Exists: info.Exists, Identity: info.Identity, Stamp: info.Stamp, Note: row.note, Volume: row.ID,
		OneNode: info.Kind == nbd.NBD,
	}
	if err == nil && info.Exists {
		out.Foreign, _ = foreign(row.VolumeRecord, info, c.Target)
	}
	return out, err
}

// look asks a target by its name. rows are those of the ledger. unasked leaves out what a server would have to be
// asked.
func (v *Volumes) look(ctx context.Context, rows []job.VolumeRecord, c job.VolumeClaim, unasked bool) (Info, error) {
	where, err := v.allow.locate(c.Target)
	if err != nil {
		return Info{}, err
	}
	if unasked {
		return Info{Kind: nbd.NBD, Exists: true, id: identity{kind: nbd.NBD, uri: canonical(c.Target)}}, nil
	}
	info, err := v.allow.Inspect(ctx, c.Target)
	if err != nil {
		return Info{}, err
	}
	if !info.Exists {
		return info, errors.Join(canBeMade(where.path), rawName(c.Target))
	}
	return info, info.fits(c.Target, c.Capacity, grows(rows, c, info))
}

// rawName refuses a file that would be made with the name of another format than the raw one that it gets.
func rawName(target string) error {
	if format := nbd.FormatOfName(target); format != "" {
		return job.Errorf("check target", job.Invalid,
			"Name it .raw or .img, or make a "+format+" image, serve it with qemu-nbd, and name its NBD URI",
			"%s is named as a %s image, and a job makes raw disks", target, format)
	}
	return nil
}

// grows says whether a target that is too small is made larger: a file that a job of the same VM made.
func grows(rows []job.VolumeRecord, c job.VolumeClaim, info Info) bool {
	return info.Kind == nbd.File && slices.ContainsFunc(rows, func(r job.VolumeRecord) bool {
		return r.Ours() && r.Owner.Same(c.Owner) && info.is(r.Identity, c.Target)
	})
}

// holds says what a target that is not open holds, in words; "" if it holds only zeros.
func (v *Volumes) holds(ctx context.Context, target string, info Info) (what string, err error) {
	const data = "holds data that no job of this vmferry has written"
	if info.Kind == nbd.NBD {
		t, err := nbd.ExportTarget(target, v.allow.TLS)
		if err != nil {
			return "", err
		}
		if found, err := exportHoldsData(ctx, t, info.Size); err != nil || !found {
			return "", err
		}
		return data, nil
	}
	where, err := v.allow.locate(target)
	if err != nil {
		return "", err
	}
	f, err := where.open(os.O_RDONLY, 0)
	if err != nil {
		return "", nbd.Classify("look at target "+target, err)
	}
	format, err := nbd.FormatOfFile(f)
	found := false
	if err == nil && format == "" {
		found, err = holdsData(f, info.Kind, info.Size)
	}
	switch {
	case format != "":
		what = "is a " + format + " image"
	case found:
		what = data
	}
	return what, nbd.Classify("look at target "+target, errors.Join(err, f.Close()))
}

func absolute(target string) string {
	if nbd.IsURI(target) {
		return target
	}
	if path, err := filepath.Abs(target); err == nil {
		return path
	}
	return target
}

// find looks for the ledger's row of a disk's target.
func (v *Volumes) find(ctx context.Context, ref job.VolumeRef) (row job.VolumeRecord, found bool, err error) {
	rows, err := v.ledger.VolumesOf(ctx, ref.Job)
	if err != nil {
		return row, false, err
	}
	for _, r := range rows {
		if r.Owner.Disk == ref.Disk && r.Target == ref.Target {
			return r, true, nil
		}
	}
	return row, false, nil
}

// row is the ledger's row of a disk's target. Errors: Conflict if the job has not claimed it.
func (v *Volumes) row(ctx context.Context, ref job.VolumeRef) (job.VolumeRecord, error) {
	row, found, err := v.find(ctx, ref)
	if err != nil || found {
		return row, err
	}
	return row, job.Errorf("look into the ledger of volumes", job.Conflict,
		"Retry the job: its preflight claims the target again", "job %s has not claimed %s", ref.Job,
		nbd.Redact(ref.Target))
}

// Open opens and locks the target of a disk, if there is one, and holds it until Release. It says what the target is
// now, and whether it is as our last writer left it. Errors are those of Check, and Conflict if another process has it.
func (v *Volumes) Open(ctx context.Context, ref job.VolumeRef) (job.TargetInfo, error) {
	h, row, err := v.lend(ctx, ref)
	if err != nil {
		return job.TargetInfo{}, err
	}
	defer h.mu.Unlock()
	info, err := v.ask(ctx, h, ref, row)
	if err != nil || !info.Exists {
		return job.TargetInfo{Volume: row.ID}, err
	}
	out := job.TargetInfo{
		Exists: true, Identity: info.Identity, Stamp: info.Stamp, Volume: row.ID, Zero: h.allZero(),
		Renewed: row.Renewed, ChangeID: row.ChangeID,
	}
	out.Foreign, out.Note = foreign(row, info, ref.Target)
	h.why = out.Foreign
	return out, nil
}

// foreign says why a volume is not as our last writer left it; "" if it is, or if nothing can tell. note is for people.
func foreign(row job.VolumeRecord, info Info, target string) (why, note string) {
	if row.Identity == "" {
		return "", ""
	}
	if !info.is(row.Identity, target) {
		return "the target is not the one that was written before", ""
	}
	if info.Size < row.Size {
		return "the target was cut short", ""
	}
	switch compareStamps(row.Stamp, info.Stamp) {
	case changed:
		if row.Writing {
			return "an earlier round was cut off, and who wrote to the target last is not known", ""
		}
		return "another process has written to the target", ""
	case unknown:
		if row.Writing && row.Generation > 0 && info.Kind != nbd.NBD {
			return "an earlier round was cut off, and who wrote to the target last is not known", ""
		}
		if info.Kind == nbd.Block && row.Stamp != "" {
			return "", "whether others have written to it since the machine was started again can't be told"
		}
	case unchanged:
	}
	return "", ""
}

// ask opens the target if it is not open yet, and asks it. What does not exist stays closed.
func (v *Volumes) ask(ctx context.Context, h *held, ref job.VolumeRef, row job.VolumeRecord) (Info, error) {
	if h.volume == nil {
		there, err := v.allow.Inspect(ctx, ref.Target)
		if err != nil || !there.Exists {
			return there, err
		}
	}
	if err := v.lease(ctx, h, ref, row); err != nil {
		return Info{}, err
	}
	if h.volume == nil {
		defer h.unopened(ctx)
		var err error
		if h.volume, err = v.allow.open(ctx, ref.Target); err != nil {
			return Info{}, err
		}
	}
	info, err := h.volume.Info(ctx)
	if err != nil {
		return Info{}, err
	}
	return info, info.fits(ref.Target, ref.Capacity, row.Ours() && info.Kind == nbd.File)
}

// Prepare makes a target ready for the first write of a round: it makes a file where nothing is, checks once more on
// the open target whose it is, marks it, and stores what it is now. Then it says what Open says. It is called after
// Open.
func (v *Volumes) Prepare(ctx context.Context, ref job.VolumeRef) (job.TargetInfo, error) {
	h, row, err := v.lend(ctx, ref)
	if err != nil {
		return job.TargetInfo{}, err
	}
	defer h.mu.Unlock()
	info, err := v.ask(ctx, h, ref, row)
	if err != nil {
		return job.TargetInfo{}, err
	}
	made := !info.Exists
	if made {
		if row, info, err = v.make(ctx, h, ref, row); err != nil {
			return job.TargetInfo{}, err
		}
	}
	if row, err = v.own(ctx, h, ref, row, info, made); err != nil {
		return job.TargetInfo{}, err
	}
	return job.TargetInfo{
		Exists: true, Identity: row.Identity, Stamp: row.Stamp, Volume: row.ID, Zero: h.allZero(),
		Stamped: row.Stamp != "",
	}, nil
}

// make makes the file of a target. That the job makes it is stored before.
func (v *Volumes) make(ctx context.Context, h *held, ref job.VolumeRef, row job.VolumeRecord) (
	job.VolumeRecord, Info, error,
) {
	var drop []string
	if row.Identity != "" { // what was there is gone: this is another volume
		drop = []string{row.ID}
		renew(&row)
		row.Identity, row.Generation = "", 0
	}
	row.MadeBy = ref.Job
	if err := v.ledger.ChangeVolumes(ctx, []job.VolumeRecord{row}, drop); err != nil {
		return row, Info{}, err
	}
	where, err := v.allow.locate(ref.Target)
	if err != nil {
		return row, Info{}, err
	}
	if err := v.lease(ctx, h, ref, row); err != nil {
		return row, Info{}, err
	}
	defer h.unopened(ctx)
	if err := where.create(ref.Capacity); err != nil {
		return row, Info{}, nbd.Classify("create target "+ref.Target, err)
	}
	if h.volume, err = v.allow.open(ctx, ref.Target); err != nil {
		return row, Info{}, err
	}
	h.volume.made = true
	info, err := h.volume.Info(ctx)
	return row, info, err
}

// renew gives a row another id: no set that names the old one fits the volume any more.
func renew(row *job.VolumeRecord) {
	row.Lease = row.LeaseID()
	row.ID, row.Renewed, row.Writing, row.Stamp = rand.Text(), true, false, ""
}

// own checks on the open target whose it is, marks it, and stores what it is. made says that it was made just now.
func (v *Volumes) own(ctx context.Context, h *held, ref job.VolumeRef, row job.VolumeRecord, info Info, made bool) (
	job.VolumeRecord, error,
) {
	rows, err := v.ledger.Volumes(ctx)
	if err != nil {
		return row, err
	}
	known := placesOf(rows) // before the lock: a file system that hangs holds up this job only
	v.claims.Lock()         // no other job may claim what is about to be written
	defer v.claims.Unlock()
	if err := v.mine(ctx, ref, row, info, known); err != nil {
		return row, err
	}
	old, size := row.ID, max(ref.Capacity, sizeIn(row.Stamp))
	switch {
	case row.Ours():
		size = ref.Capacity
	case sizeIn(row.Stamp) == 0:
		size = math.MaxInt64 // what it was is not known
	}
	if why, _ := foreign(row, info, ref.Target); !made && why != "" {
		if h.why == "" {
			return row, written("prepare target", ref) // since Open looked, by which the disk does not go full
		}
		renew(&row)
		h.volume.made = false // it may hold more than zeros
	}
	if err := v.notPrecious(ctx, h, ref, row, info, old, made); err != nil {
		return row, err
	}
	if info.Kind == nbd.File {
		anew := made || row.Generation == 0 || info.id.mark == ""
		if info, err = h.ready(ctx, row.ID, ref.Capacity, size, anew); err != nil {
			return row, err
		}
	}
	// Our own mark is no write of others, and the disk goes full where others have written before.
	row.Stamp, row.Identity, row.Size = info.Stamp, info.Identity, ref.Capacity
	row.Generation++
	var drop []string
	if row.ID != old {
		drop = []string{old}
	}
	return row, v.ledger.ChangeVolumes(ctx, []job.VolumeRecord{row}, drop)
}

// ready makes an open file at least capacity bytes large, takes away what others have appended to the size that our
// last writer left, and marks it if mark is set. It says what the file is then.
func (h *held) ready(ctx context.Context, id string, capacity, size int64, mark bool) (Info, error) {
	if err := h.volume.resize(capacity, size, h.why != ""); err != nil {
		return Info{}, err
	}
	if mark {
		if err := writeMark(h.volume.file, id); err != nil {
			return Info{}, nbd.Classify("mark target "+h.volume.path, err)
		}
	}
	return h.volume.Info(ctx)
}

// notPrecious refuses what was not written for this job: nothing was there when it was claimed, or something else. id
// is the row's stored one.
func (v *Volumes) notPrecious(ctx context.Context, h *held, ref job.VolumeRef, row job.VolumeRecord, info Info,
	id string, made bool,
) error {
	was := parseIdentity(row.Identity)
	if made || info.is(row.Identity, ref.Target) || row.Generation > 0 && !differ(info.id.mark, was.mark) {
		return nil
	}
	// By a daemon that ended before it could store that.
	ours := row.MadeBy == ref.Job && h.allZero() || info.id.mark == id && !row.AdoptedAt.IsZero()
	_, err := v.fresh(ctx, job.VolumeClaim{VolumeRef: ref}, looked{Info: info}, id, ours)
	return err
}

// mine refuses an open target that another row has, by whatever name.
func (v *Volumes) mine(ctx context.Context, ref job.VolumeRef, row job.VolumeRecord, info Info, known places) error {
	rows, err := v.ledger.Volumes(ctx)
	if err != nil {
		return err
	}
	rivals, err := rivals(rows, known, ref.Target, info)
	if err != nil {
		return err
	}
	for _, r := range rivals {
		if r.ID != row.ID && !idle(r) && r.ReleasedAt.IsZero() {
			return taken(r, job.VolumeClaim{VolumeRef: ref},
				"Find out who put it there, and name another target for one of them")
		}
	}
	return nil
}

// allZero says whether the target is known to hold only zeros.
func (h *held) allZero() bool {
	return h.volume != nil && (h.volume.made && !h.used || h.volume.file != nil && nbd.AllHoles(h.volume.file))
}

// hold gives the entry of a disk, locked. Errors: Cancelled if ctx has ended, so that a job that has let go of its
// targets opens none any more.
func (v *Volumes) hold(ctx context.Context, ref job.VolumeRef) (*held, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, nbd.Ended(ctx, "open target", err)
		}
		h := v.entry(ctx, key{ref.Job, ref.Disk})
		h.mu.Lock()
		if !h.gone {
			return h, nil
		}
		h.mu.Unlock()
	}
}

// lend is hold, and gives the target's row as it is under that lock. The caller unlocks the entry.
func (v *Volumes) lend(ctx context.Context, ref job.VolumeRef) (*held, job.VolumeRecord, error) {
	h, err := v.hold(ctx, ref)
	if err != nil {
		return nil, job.VolumeRecord{}, err
	}
	row, err := v.row(ctx, ref)
	if err != nil {
		h.mu.Unlock()
	}
	return h, row, err
}

func (v *Volumes) entry(ctx context.Context, k key) *held {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.open[k] == nil {
		h, ctx := &held{}, context.WithoutCancel(ctx)
		h.end = func() { v.close(ctx, k, h) }
		v.open[k] = h
	}
	return v.open[k]
}

// Release closes all targets of a job. It does not wait for the kernel: what does not close at once is closed later.
func (v *Volumes) Release(id job.ID) {
	for _, h := range v.take(func(k key) bool { return k.job == id }) {
		v.closing.Go(h.end)
	}
}

// Close closes all targets of all jobs. It returns when they are closed, or when ctx ends: a kernel that does not let
// go of a file holds nothing else up.
func (v *Volumes) Close(ctx context.Context) {
	defer v.leases.stop() // what does not end stores nothing any more: the ledger may be closed after that
	closed := make(chan struct{})
	for _, h := range v.take(func(key) bool { return true }) {
		v.closing.Go(h.end)
	}
	go func() {
		v.closing.Wait()
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
